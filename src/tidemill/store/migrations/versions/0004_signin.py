"""Credentials, sessions, failed sign-ins, people of OIDC providers."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _id(name: str) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=False)


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, server_default="", nullable=False)


def _int(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def _maybe_int(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=True)


def _bytes(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "credentials",
        _id("id"),
        _text("oid"),
        _text("kind"),
        _bytes("value"),
        _text("name"),
        _text("hint"),
        _int("created_at"),
        _text("created_by"),
        _maybe_int("expires_at"),
        sa.PrimaryKeyConstraint("id", name="credentials_pk"),
    )
    op.create_index("credentials_oid", "credentials", ["oid", "created_at", "id"])
    op.create_table(
        "sign_in_sessions",
        _id("id"),
        _text("oid"),
        _text("client"),
        _text("how"),
        _text("address"),
        _bytes("salt"),
        _int("generation"),
        _int("created_at"),
        _int("used_at"),
        _int("expires_at"),
        _maybe_int("ended_at"),
        _text("end_reason"),
        _int("revision"),
        sa.PrimaryKeyConstraint("id", name="sign_in_sessions_pk"),
    )
    op.create_index("sign_in_sessions_oid", "sign_in_sessions", ["oid", "created_at", "id"])
    op.create_table(
        "sign_in_failures",
        _id("key"),
        _int("count"),
        _int("last_at"),
        sa.PrimaryKeyConstraint("key", name="sign_in_failures_pk"),
    )
    op.create_index("sign_in_failures_last", "sign_in_failures", ["last_at"])
    op.create_table(
        "external_identities",
        _id("issuer"),
        _id("subject"),
        _text("oid"),
        _int("created_at"),
        sa.PrimaryKeyConstraint("issuer", "subject", name="external_identities_pk"),
    )
    op.create_index("external_identities_oid", "external_identities", ["oid"])
