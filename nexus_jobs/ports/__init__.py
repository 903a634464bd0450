"""What the application needs from the outside world. Adapters implement these protocols."""

from nexus_jobs.ports.fleet import FleetStore, LiveLoads, RouteStore, ScheduleStore
from nexus_jobs.ports.jobs import BulkStore, JobFilter, JobStore, Settled, ignore
from nexus_jobs.ports.messages import (
    Channel,
    Clock,
    Ending,
    Hints,
    ResultCache,
    Signals,
    TicketQueue,
)

__all__ = [
    "BulkStore",
    "Channel",
    "Clock",
    "Ending",
    "FleetStore",
    "Hints",
    "JobFilter",
    "JobStore",
    "LiveLoads",
    "ResultCache",
    "RouteStore",
    "ScheduleStore",
    "Settled",
    "Signals",
    "TicketQueue",
    "ignore",
]
