"""The activity log."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, server_default="", nullable=False)


def _int(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def upgrade() -> None:
    op.create_table(
        "activity",
        sa.Column("seq", _NUMBER, nullable=False, autoincrement=False),
        _int("at"),
        _text("action"),
        _text("outcome"),
        _text("actor"),
        _text("actor_name"),
        _text("actor_kind"),
        _text("address"),
        _text("agent"),
        _text("scope"),
        _text("resource"),
        _text("method"),
        _int("status"),
        _text("code"),
        _text("assignment"),
        _text("reason"),
        _text("correlation"),
        _int("count"),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="activity_pk"),
    )
    op.create_index("activity_at", "activity", ["at", "seq"])
