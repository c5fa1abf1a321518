"""The first tables. Frozen: later changes are revisions of their own."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, server_default="", nullable=False)


def _int(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def _maybe_int(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=True)


def _bytes(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def _partial(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", _TEXT, nullable=False),
        _text("job_uid"),
        _int("number"),
        _text("compute_uid"),
        _bytes("nodes"),
        _bytes("gpu_ids"),
        _text("state"),
        _int("epoch"),
        sa.Column("outcome", _TEXT, nullable=True),
        _maybe_int("exit_code"),
        _maybe_int("signal"),
        _text("reason"),
        _text("message"),
        _int("created_at"),
        _maybe_int("started_at"),
        _maybe_int("ended_at"),
        _maybe_int("stop_requested_at"),
        _text("stop_reason"),
        _bytes("ranks"),
        _maybe_int("next_at"),
        _int("revision"),
        sa.PrimaryKeyConstraint("id", name="attempts_pk"),
        sa.UniqueConstraint("job_uid", "number", name="attempts_number"),
    )
    _partial("attempts_live", "attempts", ["created_at", "id"], "state <> 'Ended'")
    op.create_table(
        "events",
        sa.Column("seq", _NUMBER, autoincrement=True, nullable=False),
        _text("subject"),
        _text("kind"),
        _int("at"),
        _text("code"),
        _text("message"),
        _text("actor"),
        _bytes("data"),
        sa.PrimaryKeyConstraint("seq", name="events_pk"),
    )
    op.create_index("events_kind", "events", ["kind", "seq"])
    op.create_index("events_subject", "events", ["subject", "seq"])
    op.create_table(
        "intervals",
        sa.Column("id", _TEXT, nullable=False),
        _text("kind"),
        _text("node_id"),
        _text("compute_uid"),
        _text("subscription"),
        _text("resource_group"),
        _text("workspace"),
        _text("size"),
        _text("tier"),
        _text("region"),
        _int("started_at"),
        _int("started_mono"),
        _text("boot_id"),
        _int("last_seen_at"),
        _text("job_uid"),
        _bytes("tags"),
        _maybe_int("ended_at"),
        _maybe_int("ended_mono"),
        _text("end_reason"),
        _text("scope_key"),
        sa.PrimaryKeyConstraint("id", name="intervals_pk"),
    )
    op.create_index("intervals_compute", "intervals", ["compute_uid", "started_at", "id"])
    _partial("intervals_job", "intervals", ["job_uid", "started_at", "id"], "job_uid <> ''")
    op.create_index("intervals_node", "intervals", ["node_id", "started_at", "id"])
    _partial("intervals_open", "intervals", ["started_at", "id"], "ended_at IS NULL")
    op.create_index("intervals_scope", "intervals", ["scope_key", "started_at", "id"])
    op.create_table(
        "leases",
        sa.Column("token", _NUMBER, autoincrement=True, nullable=False),
        _text("name"),
        _text("owner"),
        _int("expires_at"),
        sa.PrimaryKeyConstraint("token", name="leases_pk"),
        sa.UniqueConstraint("name", name="leases_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "meta",
        sa.Column("key", _TEXT, nullable=False),
        _bytes("value"),
        sa.PrimaryKeyConstraint("key", name="meta_pk"),
    )
    op.create_table(
        "nodes",
        sa.Column("id", _TEXT, nullable=False),
        _text("compute_uid"),
        _text("pool"),
        _text("size"),
        _int("cpu_milli"),
        _int("memory"),
        _int("gpus"),
        _bytes("gpu_ids"),
        _text("state"),
        _text("tier"),
        _bytes("handle"),
        _bytes("limits"),
        _text("attempt_id"),
        _maybe_int("idle_since"),
        _int("created_at"),
        _maybe_int("ready_at"),
        _maybe_int("closed_at"),
        _int("heartbeat_at"),
        _text("reason"),
        _maybe_int("next_at"),
        _int("revision"),
        sa.PrimaryKeyConstraint("id", name="nodes_pk"),
    )
    op.create_index("nodes_compute", "nodes", ["compute_uid", "created_at", "id"])
    _partial("nodes_compute_live", "nodes", ["compute_uid", "created_at", "id"], "state <> 'Closed'")
    _partial("nodes_live", "nodes", ["created_at", "id"], "state <> 'Closed'")
    op.create_table(
        "resources",
        sa.Column("uid", _TEXT, nullable=False),
        _text("subscription"),
        _text("resource_group"),
        _text("workspace"),
        _text("type"),
        _text("name"),
        _text("parent"),
        _text("state"),
        _bytes("spec"),
        _bytes("status"),
        _bytes("tags"),
        _text("location"),
        _text("ref"),
        _text("digest"),
        _int("archived"),
        _int("created_at"),
        _int("modified_at"),
        _text("created_by"),
        _maybe_int("next_at"),
        _int("revision"),
        _text("scope_key"),
        _text("type_key"),
        _text("parent_key"),
        _text("whole_key"),
        _text("ref_key"),
        sa.PrimaryKeyConstraint("uid", name="resources_pk"),
        sa.UniqueConstraint("whole_key", name="resources_key"),
    )
    _partial("resources_digest", "resources", ["digest", "uid"], "digest <> ''")
    _partial("resources_due", "resources", ["type_key", "next_at", "uid"], "next_at IS NOT NULL")
    _partial(
        "resources_parent",
        "resources",
        ["type_key", "scope_key", "parent_key", "archived", "uid"],
        "parent_key <> ''",
    )
    _partial(
        "resources_ref", "resources", ["type_key", "ref_key", "state", "archived", "uid"], "ref_key <> ''"
    )
    op.create_index("resources_scope", "resources", ["type_key", "scope_key", "archived", "uid"])
    op.create_index(
        "resources_scope_state", "resources", ["type_key", "scope_key", "state", "archived", "uid"]
    )
    op.create_index("resources_state", "resources", ["type_key", "state", "archived", "uid"])
