"""A day of a large fleet in simulated time, to compare ways of assigning models to workers."""
