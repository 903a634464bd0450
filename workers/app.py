"""The Celery app of the workers: `celery -A workers.app worker -Q nexus.<model>`."""

from celery import Celery

from nexus_jobs.adapters.redis_link import SOCKET
from nexus_jobs.config import load_settings
from workers.tasks import register
from workers.ticket_transport import TicketTransport

settings = load_settings()
app = Celery("nexus", broker=settings.redis_url)
app.conf.update(
    broker_transport=f"{TicketTransport.__module__}:{TicketTransport.__name__}",
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    worker_send_task_events=settings.queue.task_events,
    worker_pool="threads",
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=True,
    broker_channel_error_retry=True,
    # No task of ours is one that this cancels; unset, Celery warns at each lost connection.
    worker_cancel_long_running_tasks_on_connection_loss=True,
    broker_transport_options={
        **SOCKET,
        "socket_timeout": 5.0,  # a worker waits on its socket for tickets
        # A ticket that a worker has taken along when it died does no harm, so that Redis need
        # not remember it: saves four calls a ticket.
        "ack_emulation": False,
    },
    broker_connection_timeout=2.0,
)
register(app, settings)
