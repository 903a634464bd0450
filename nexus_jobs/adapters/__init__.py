"""Implementations of the ports, each on one outside system."""
