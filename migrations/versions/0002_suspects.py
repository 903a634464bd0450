"""crash suspects, attempts that are held back, and traces of errors

Revision: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

QUEUED = sa.text("state = 'queued'")
SUSPECT = sa.Column("suspect", sa.Boolean(), nullable=False, server_default=sa.false())


def upgrade() -> None:
    op.add_column("jobs", sa.Column("run_after", sa.Double()))
    op.add_column("jobs", SUSPECT)
    op.add_column("jobs", sa.Column("error_trace", sa.Text()))
    op.drop_index("ix_jobs_queue", "jobs")
    op.create_index(
        "ix_jobs_queue",
        "jobs",
        ["model", "suspect", "due_at", "id"],
        sqlite_where=QUEUED,
        postgresql_where=QUEUED,
    )
