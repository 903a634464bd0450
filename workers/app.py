"""The Celery app of the workers: `celery -A workers.app worker -Q nexus.<model>`."""

from nexus_jobs.adapters.celery_tickets import celery_app
from nexus_jobs.config import load_settings
from workers.tasks import register

settings = load_settings()
app = celery_app(settings)
register(app, settings)
