"""Lets `nexus up` start its children as `python -m nexus_jobs.cli ROLE`."""

from nexus_jobs.cli import main

main()
