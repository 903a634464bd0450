"""routes, the route that a job came by, and copies of jobs

Revision: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

QUEUED_BY_A_ROUTE = sa.text("state = 'queued' AND route IS NOT NULL")
ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "routes",
        sa.Column("name", ID, nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_routes"),
    )
    op.add_column("jobs", sa.Column("route", sa.Text()))
    op.add_column("jobs", sa.Column("shadow_of", ID))
    op.create_index(
        "ix_jobs_routed",
        "jobs",
        ["route", "model", "id"],
        sqlite_where=QUEUED_BY_A_ROUTE,
        postgresql_where=QUEUED_BY_A_ROUTE,
    )
