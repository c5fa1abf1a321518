"""Jobs that other jobs started: a row names its parent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("resources", sa.Column("parent_uid", _TEXT, server_default="", nullable=False))
    op.create_index(
        "resources_family", "resources", ["type_key", "scope_key", "parent_uid", "archived", "uid"]
    )
