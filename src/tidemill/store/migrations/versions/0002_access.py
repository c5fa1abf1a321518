"""Principals, groups, custom roles and role assignments."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _id(name: str) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=False)


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, server_default="", nullable=False)


def _int(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def _bytes(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "principals",
        _id("oid"),
        _text("kind"),
        _text("name"),
        _text("display_name"),
        _text("app_id"),
        _text("resource"),
        _int("disabled"),
        _int("created_at"),
        _text("created_by"),
        _int("revision"),
        _text("name_key"),
        _text("app_key"),
        _text("resource_key"),
        sa.PrimaryKeyConstraint("oid", name="principals_pk"),
        sa.UniqueConstraint("name_key", name="principals_name"),
    )
    app, resource = sa.text("app_key <> ''"), sa.text("resource_key <> ''")
    op.create_index(
        "principals_app", "principals", ["app_key"], unique=True, sqlite_where=app, postgresql_where=app
    )
    op.create_index(
        "principals_resource",
        "principals",
        ["resource_key"],
        sqlite_where=resource,
        postgresql_where=resource,
    )
    op.create_table(
        "group_members",
        _id("group_oid"),
        _id("member_oid"),
        sa.PrimaryKeyConstraint("group_oid", "member_oid", name="group_members_pk"),
    )
    op.create_index("group_members_member", "group_members", ["member_oid"])
    op.create_table(
        "role_definitions",
        _id("id"),
        _text("name"),
        _bytes("permissions"),
        _text("description"),
        _bytes("assignable_scopes"),
        _int("created_at"),
        _text("created_by"),
        _int("modified_at"),
        _int("revision"),
        _text("name_key"),
        sa.PrimaryKeyConstraint("id", name="role_definitions_pk"),
        sa.UniqueConstraint("name_key", name="role_definitions_name"),
    )
    op.create_table(
        "role_assignments",
        _id("id"),
        _text("scope"),
        _text("principal"),
        _text("role"),
        _text("description"),
        _int("created_at"),
        _text("created_by"),
        _text("scope_key"),
        sa.PrimaryKeyConstraint("id", name="role_assignments_pk"),
        sa.UniqueConstraint("principal", "role", "scope_key", name="role_assignments_once"),
    )
    op.create_index("role_assignments_role", "role_assignments", ["role"])
    op.create_index("role_assignments_scope", "role_assignments", ["scope_key"])
