"""the registry with versions, reports as one document, and what the scheduler decides

Revision: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    extend_registry()
    replace_workers()
    create_schedule()


def extend_registry() -> None:
    for name, default in (("version", "1"), ("registered_at", "0")):
        kind = sa.Integer() if name == "version" else sa.Double()
        op.add_column("models", sa.Column(name, kind, nullable=False, server_default=default))
    for name, default in (("origin", "file"), ("wanted", "auto")):
        op.add_column("models", sa.Column(name, sa.Text(), nullable=False, server_default=default))
    op.add_column("models", sa.Column("measured", sa.JSON()))
    op.create_table(
        "model_versions",
        sa.Column("name", ID, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("registered_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name="pk_model_versions"),
    )
    op.execute(
        "INSERT INTO model_versions (name, version, config, registered_at) "
        "SELECT name, version, config, registered_at FROM models"
    )


def replace_workers() -> None:
    """Workers report anew every few seconds, so nothing is lost."""
    op.drop_table("workers")
    op.create_table(
        "workers",
        sa.Column("id", ID, nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )


def create_schedule() -> None:
    op.create_table(
        "leaders",
        sa.Column("role", ID, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("role", name="pk_leaders"),
    )
    op.create_table(
        "assignments",
        sa.Column("worker", ID, nullable=False),
        sa.Column("model", ID, nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("worker", "model", name="pk_assignments"),
    )
    op.create_table(
        "decisions",
        sa.Column("id", ID, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("model", ID, nullable=False),
        sa.Column("worker", ID, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_decisions"),
    )
    op.create_table(
        "recommendations",
        sa.Column("model", ID, nullable=False),
        sa.Column("replicas", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model", name="pk_recommendations"),
    )
