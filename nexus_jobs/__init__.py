"""Nexus Jobs: a queue-driven platform for LLM inference."""
