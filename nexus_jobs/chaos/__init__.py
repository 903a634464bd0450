"""Breaks a throw-away platform on purpose, under load, and checks that it kept its promise.

The promise: a 202 means that the job is on disk; every accepted job ends in exactly one terminal
state; its result is recorded once; whatever is killed. The platform is driven from outside alone:
processes, HTTP, Redis, and at the end the rows themselves.
"""
