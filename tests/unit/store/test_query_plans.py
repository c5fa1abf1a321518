"""Lists are ranges of an index: no table is scanned and no page is sorted, whatever the filters."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from tidemill.domain.model import Key, Resource, Scope
from tidemill.store.api import Granted, ResourceQuery
from tidemill.store.migrate import create_statements
from tidemill.store.queries import find_sql
from tidemill.store.sqltx import SqlTx

WS = Scope("s", "g", "w")


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(":memory:", isolation_level=None)
    for statement in create_statements("sqlite"):
        db.execute(statement)
    tx = SqlTx(db.execute)
    for number in range(50):
        state = ("Completed", "Failed", "Queued")[number % 7 % 3]
        key = Key(WS, "jobs", f"j{number}", "p" if number % 2 else "")
        tx.insert(
            Resource(f"{number:032x}", key, state, ref="cpu", digest=f"d{number}", archived=number % 9 == 0)
        )
    yield db
    db.close()


def plan(db: sqlite3.Connection, sql: str, params: Any) -> list[str]:
    return [row[3] for row in db.execute("EXPLAIN QUERY PLAN " + sql, params)]


def test_what_was_granted_is_found_from_the_assignments(connection: sqlite3.Connection) -> None:
    query = ResourceQuery("jobs", WS, archived=False, limit=100, granted=Granted(("me",), ("reads",)))
    statement = find_sql(connection.execute, query)
    assert statement is not None
    steps = plan(connection, *statement)
    assert any("SEARCH resources" in step and "(whole_key=?)" in step for step in steps), steps
    assert any("SEARCH role_assignments" in step and "(principal=? AND" in step for step in steps), steps
    assert not any(step.startswith(("SCAN resources", "SCAN role_assignments")) for step in steps), steps


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (ResourceQuery("jobs", WS, archived=False, limit=10), "resources_scope"),
        (ResourceQuery("jobs", WS, limit=10, after="0" * 32), "resources_scope"),
        (ResourceQuery("jobs", WS, parent="", limit=10), "resources_scope"),
        (ResourceQuery("jobs", WS, parent_uid="", archived=False, limit=10), "resources_family"),
        (ResourceQuery("jobs", WS, parent_uid="0" * 32, exclude_states=("Failed",)), "resources_family"),
        (
            ResourceQuery("jobs", WS, parent_uid="", states=("Queued",), archived=False),
            "resources_scope_state",
        ),
        (ResourceQuery("jobs", WS, parent="p", archived=False, limit=10), "resources_parent"),
        (ResourceQuery("jobs", WS, ref="cpu", states=("Queued",), archived=False, limit=1), "resources_ref"),
        (ResourceQuery("jobs", ref="cpu", exclude_states=("Completed", "Failed"), limit=9), "resources_ref"),
        (ResourceQuery("jobs", states=("Queued",), archived=False, limit=10), "resources_state"),
        (ResourceQuery("jobs", digest="d3"), "resources_digest"),
        (ResourceQuery("jobs", WS, digest="d3", states=("Queued",)), "resources_digest"),
    ],
)
def test_find_uses_its_index(connection: sqlite3.Connection, query: ResourceQuery, index: str) -> None:
    statement = find_sql(connection.execute, query)
    assert statement is not None
    steps = plan(connection, *statement)
    ranges = [step for step in steps if "resources" in step and "(uid=?)" not in step]
    assert ranges
    assert all(f"INDEX {index} (" in step for step in ranges), steps
    assert not any(step.startswith("SCAN resources") for step in steps), steps
    if query.archived is not None or query.digest:
        # One range: its order is the answer's.
        assert not any("TEMP B-TREE" in step for step in steps), steps


def test_states_by_scope_use_their_index(connection: sqlite3.Connection) -> None:
    query = ResourceQuery("jobs", WS, exclude_states=("Completed",), limit=5)
    statement = find_sql(connection.execute, query)
    assert statement is not None
    steps = plan(connection, *statement)
    assert any("resources_scope" in step for step in steps), steps
    assert not any(step.startswith("SCAN resources") for step in steps), steps


@pytest.mark.parametrize(
    ("call", "index"),
    [
        (lambda tx: tx.due("jobs", 5), "resources_due"),
        (lambda tx: tx.live_attempts(), "attempts_live"),
        (lambda tx: tx.live_nodes(), "nodes_live"),
        (lambda tx: tx.nodes_of("c"), "nodes_compute_live"),
        (lambda tx: tx.nodes_of("c", closed=True), "nodes_compute"),
        (lambda tx: tx.events("s", 3, 10), "events_subject"),
        (lambda tx: tx.events_of_kind("job", 3), "events_kind"),
        (lambda tx: tx.intervals(job_uid="j"), "intervals_job"),
        (lambda tx: tx.intervals(open_only=True), "intervals_open"),
        (lambda tx: tx.intervals(compute_uid="c"), "intervals_compute"),
        (lambda tx: tx.intervals(node_id="c"), "intervals_node"),
        (lambda tx: tx.intervals(workspace=WS), "intervals_scope"),
    ],
)
def test_other_lists_use_theirs(connection: sqlite3.Connection, call: Any, index: str) -> None:
    statements: list[tuple[str, Any]] = []

    def spy(sql: str, params: Any) -> sqlite3.Cursor:
        statements.append((sql, params))
        return connection.execute(sql, params)

    call(SqlTx(spy))
    ((sql, params),) = statements
    steps = plan(connection, sql, params)
    assert len(steps) == 1, steps
    assert f"INDEX {index} (" in steps[0] or f"INDEX {index}" == steps[0].split("USING ")[-1], steps
