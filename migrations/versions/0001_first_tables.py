"""first tables

Revision: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    create_bulks()
    create_jobs()
    create_results()
    create_fleet()


def create_bulks() -> None:
    op.create_table(
        "bulks",
        sa.Column("id", ID, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("columns", JSON, nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("submitted_at", sa.Double(), nullable=False),
        sa.Column("touched_at", sa.Double(), nullable=False, comment="when rows were last added"),
        sa.PrimaryKeyConstraint("id", name="pk_bulks"),
    )


def create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", ID, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=True),
        sa.Column("messages", JSON, nullable=True),
        sa.Column("params", JSON, nullable=False),
        sa.Column("metadata", JSON, nullable=True),
        sa.Column("use_cache", sa.Boolean(), nullable=False),
        sa.Column("reproducible", sa.Boolean(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=True),
        sa.Column("submitted_at", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("expires_in", sa.Double(), nullable=True),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", sa.Double(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("bulk_id", ID, nullable=True),
        sa.Column("bulk_index", sa.Integer(), nullable=True),
        sa.Column("cells", JSON, nullable=True),
        sa.Column("cached", sa.Text(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["bulk_id"], ["bulks.id"], name="fk_jobs_bulk_id"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    partial_index("ix_jobs_queue", "jobs", ["model", "due_at", "id"], "state = 'queued'")
    partial_index("ix_jobs_leases", "jobs", ["lease_expires_at"], "state = 'running'")
    partial_index(
        "ix_jobs_expiry", "jobs", ["expires_at"], "state = 'queued' AND expires_at IS NOT NULL"
    )
    partial_index(
        "uq_jobs_bulk_row", "jobs", ["bulk_id", "bulk_index"], "bulk_id IS NOT NULL", unique=True
    )
    partial_index(
        "ix_jobs_bulk_progress",
        "jobs",
        ["bulk_id", "state", "finished_at", "started_at"],
        "bulk_id IS NOT NULL",
    )


def create_results() -> None:
    op.create_table(
        "results",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("finish_reason", sa.Text(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("prefill_ms", sa.Double(), nullable=False),
        sa.Column("decode_ms", sa.Double(), nullable=False),
        sa.Column(
            "fingerprint",
            sa.Text(),
            nullable=True,
            comment="only where the job computed it, not for copies",
        ),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_results_job_id"),
        sa.PrimaryKeyConstraint("job_id", name="pk_results"),
    )
    partial_index(
        "ix_results_fingerprint",
        "results",
        ["fingerprint", "created_at"],
        "fingerprint IS NOT NULL",
    )


def create_fleet() -> None:
    op.create_table(
        "models",
        sa.Column("name", ID, nullable=False),
        sa.Column(
            "position", sa.Integer(), nullable=False, comment="its place in the models file"
        ),
        sa.Column("config", JSON, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_models"),
    )
    op.create_table(
        "workers",
        sa.Column("id", ID, nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("models", JSON, nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )


def partial_index(
    name: str, table: str, columns: list[str], where: str, *, unique: bool = False
) -> None:
    op.create_index(
        name,
        table,
        columns,
        unique=unique,
        sqlite_where=sa.text(where),
        postgresql_where=sa.text(where),
    )
