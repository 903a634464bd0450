"""bulks that are given up, and whose rows are cancelled group by group

Revision: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ENDING = sa.Column(
    "ending",
    sa.Boolean(),
    nullable=False,
    server_default=sa.false(),
    comment="given up, and rows of it may still have to be cancelled",
)


def upgrade() -> None:
    op.add_column("bulks", ENDING)
