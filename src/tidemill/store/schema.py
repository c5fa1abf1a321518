"""The tables as SQLAlchemy metadata: for migrations and for writing the DDL files, not for serving.

`python -m tidemill.store.schema` rewrites schema_sqlite.sql and schema_postgresql.sql from it: a fresh
database is made from those files without importing SQLAlchemy or alembic. Columns named `*_key` hold the
case-folded form that is compared; the column beside them keeps what the user wrote.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text, text
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable, PrimaryKeyConstraint, UniqueConstraint

metadata = MetaData()

# SQLite numbers rows only through a column of the exact type INTEGER.
_Number = BigInteger().with_variant(Integer(), "sqlite")
# Text sorts by code point on both, whatever the locale of the PostgreSQL database.
_Text = Text().with_variant(Text(collation="C"), "postgresql")


def _text(name: str) -> Column[str]:
    return Column(name, _Text, nullable=False, server_default="")


def _int(name: str) -> Column[int]:
    return Column(name, BigInteger(), nullable=False, server_default="0")


def _maybe_int(name: str) -> Column[int]:
    return Column(name, BigInteger(), nullable=True)


def _bytes(name: str) -> Column[bytes]:
    return Column(name, LargeBinary(), nullable=False)


def _partial(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


resources = Table(
    "resources",
    metadata,
    Column("uid", _Text, nullable=False),
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
    # All four parts in one column: a planner without statistics cannot take another index for it.
    _text("whole_key"),
    _text("ref_key"),
    _text("parent_uid"),  # of a job that another one started
    PrimaryKeyConstraint("uid", name="resources_pk"),
    UniqueConstraint("whole_key", name="resources_key"),
    # Each ends in uid: a list in order is a range of an index, merged over the values of what is not fixed.
    Index("resources_scope", "type_key", "scope_key", "archived", "uid"),
    Index("resources_scope_state", "type_key", "scope_key", "state", "archived", "uid"),
    Index("resources_family", "type_key", "scope_key", "parent_uid", "archived", "uid"),
    Index("resources_state", "type_key", "state", "archived", "uid"),
    _partial(
        "resources_parent", "type_key", "scope_key", "parent_key", "archived", "uid", where="parent_key <> ''"
    ),
    _partial("resources_ref", "type_key", "ref_key", "state", "archived", "uid", where="ref_key <> ''"),
    _partial("resources_digest", "digest", "uid", where="digest <> ''"),
    _partial("resources_due", "type_key", "next_at", "uid", where="next_at IS NOT NULL"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", _Text, nullable=False),
    _text("job_uid"),
    _int("number"),
    _text("compute_uid"),
    _bytes("nodes"),
    _bytes("gpu_ids"),
    _text("state"),
    _int("epoch"),
    Column("outcome", _Text, nullable=True),
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
    PrimaryKeyConstraint("id", name="attempts_pk"),
    UniqueConstraint("job_uid", "number", name="attempts_number"),
    _partial("attempts_live", "created_at", "id", where="state <> 'Ended'"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", _Text, nullable=False),
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
    PrimaryKeyConstraint("id", name="nodes_pk"),
    Index("nodes_compute", "compute_uid", "created_at", "id"),
    _partial("nodes_compute_live", "compute_uid", "created_at", "id", where="state <> 'Closed'"),
    _partial("nodes_live", "created_at", "id", where="state <> 'Closed'"),
)

events = Table(
    "events",
    metadata,
    Column("seq", _Number, nullable=False, autoincrement=True),
    _text("subject"),
    _text("kind"),
    _int("at"),
    _text("code"),
    _text("message"),
    _text("actor"),
    _bytes("data"),
    PrimaryKeyConstraint("seq", name="events_pk"),
    Index("events_subject", "subject", "seq"),
    Index("events_kind", "kind", "seq"),
)

intervals = Table(
    "intervals",
    metadata,
    Column("id", _Text, nullable=False),
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
    PrimaryKeyConstraint("id", name="intervals_pk"),
    Index("intervals_compute", "compute_uid", "started_at", "id"),
    Index("intervals_node", "node_id", "started_at", "id"),
    Index("intervals_scope", "scope_key", "started_at", "id"),
    _partial("intervals_job", "job_uid", "started_at", "id", where="job_uid <> ''"),
    _partial("intervals_open", "started_at", "id", where="ended_at IS NULL"),
)

leases = Table(
    "leases",
    metadata,
    # The token is the row number and is never given twice, also after the row is gone.
    Column("token", _Number, nullable=False, autoincrement=True),
    _text("name"),
    _text("owner"),
    _int("expires_at"),
    PrimaryKeyConstraint("token", name="leases_pk"),
    UniqueConstraint("name", name="leases_name"),
    sqlite_autoincrement=True,
)

meta = Table(
    "meta",
    metadata,
    Column("key", _Text, nullable=False),
    _bytes("value"),
    PrimaryKeyConstraint("key", name="meta_pk"),
)

principals = Table(
    "principals",
    metadata,
    Column("oid", _Text, nullable=False),
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
    PrimaryKeyConstraint("oid", name="principals_pk"),
    UniqueConstraint("name_key", name="principals_name"),
    Index(
        "principals_app",
        "app_key",
        unique=True,
        sqlite_where=text("app_key <> ''"),
        postgresql_where=text("app_key <> ''"),
    ),
    _partial("principals_resource", "resource_key", where="resource_key <> ''"),
)

group_members = Table(
    "group_members",
    metadata,
    Column("group_oid", _Text, nullable=False),
    Column("member_oid", _Text, nullable=False),
    PrimaryKeyConstraint("group_oid", "member_oid", name="group_members_pk"),
    Index("group_members_member", "member_oid"),
)

role_definitions = Table(
    "role_definitions",
    metadata,
    Column("id", _Text, nullable=False),
    _text("name"),
    _bytes("permissions"),
    _text("description"),
    _bytes("assignable_scopes"),
    _int("created_at"),
    _text("created_by"),
    _int("modified_at"),
    _int("revision"),
    _text("name_key"),
    PrimaryKeyConstraint("id", name="role_definitions_pk"),
    UniqueConstraint("name_key", name="role_definitions_name"),
)

role_assignments = Table(
    "role_assignments",
    metadata,
    Column("id", _Text, nullable=False),
    _text("scope"),
    _text("principal"),
    _text("role"),
    _text("description"),
    _int("created_at"),
    _text("created_by"),
    _text("scope_key"),
    PrimaryKeyConstraint("id", name="role_assignments_pk"),
    UniqueConstraint("principal", "role", "scope_key", name="role_assignments_once"),
    Index("role_assignments_role", "role"),
    Index("role_assignments_scope", "scope_key"),
)


# Records are never changed. What is hashed is every column but the hash itself (domain/activity.py).
activity = Table(
    "activity",
    metadata,
    Column("seq", _Number, nullable=False, autoincrement=False),
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
    _bytes("hash"),
    PrimaryKeyConstraint("seq", name="activity_pk"),
    Index("activity_at", "at", "seq"),
)


credentials = Table(
    "credentials",
    metadata,
    Column("id", _Text, nullable=False),
    _text("oid"),
    _text("kind"),
    _bytes("value"),
    _text("name"),
    _text("hint"),
    _int("created_at"),
    _text("created_by"),
    _maybe_int("expires_at"),
    PrimaryKeyConstraint("id", name="credentials_pk"),
    Index("credentials_oid", "oid", "created_at", "id"),
)

sign_in_sessions = Table(
    "sign_in_sessions",
    metadata,
    Column("id", _Text, nullable=False),
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
    PrimaryKeyConstraint("id", name="sign_in_sessions_pk"),
    Index("sign_in_sessions_oid", "oid", "created_at", "id"),
)

sign_in_failures = Table(
    "sign_in_failures",
    metadata,
    Column("key", _Text, nullable=False),
    _int("count"),
    _int("last_at"),
    PrimaryKeyConstraint("key", name="sign_in_failures_pk"),
    Index("sign_in_failures_last", "last_at"),
)

external_identities = Table(
    "external_identities",
    metadata,
    Column("issuer", _Text, nullable=False),
    Column("subject", _Text, nullable=False),
    _text("oid"),
    _int("created_at"),
    PrimaryKeyConstraint("issuer", "subject", name="external_identities_pk"),
    Index("external_identities_oid", "oid"),
)


def ddl(dialect: Dialect) -> str:
    """All tables and indexes as SQL text, statements ended by `;` and an empty line."""
    statements: list[str] = []
    for table in metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=dialect)).strip())
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            statements.append(str(CreateIndex(index).compile(dialect=dialect)).strip())
    lines = [line.rstrip() for line in ";\n\n".join(statements).splitlines()]
    return "\n".join(lines) + ";\n"


def generated() -> dict[str, str]:
    """File name -> content of the two DDL files beside this module."""
    from sqlalchemy.dialects import postgresql, sqlite

    return {
        "schema_sqlite.sql": ddl(sqlite.dialect()),
        "schema_postgresql.sql": ddl(postgresql.dialect()),
    }


if __name__ == "__main__":
    for name, content in generated().items():
        Path(__file__).with_name(name).write_text(content)
