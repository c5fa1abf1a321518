"""ActivityQuery to SQL, and the same meaning in memory. A query looks at one window of the log, newest first,
and filters inside it: its cost is the window's, whatever it asks for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tidemill.domain.activity import Outcome, Record
from tidemill.store.api import ActivityPage, ActivityQuery
from tidemill.store.rows import ACTIVITY_COLUMNS, fold

Statement = tuple[str, Sequence[Any]]

_BELOW = "(lower({column}) = ? OR lower({column}) LIKE ? ESCAPE '\\')"


def window_sql(query: ActivityQuery) -> tuple[Statement, Statement]:
    """-> (the records of the window that match, its oldest (at, seq) and its size)."""
    bounds, values = ["1 = 1"], list[Any]()
    if query.after is not None:
        bounds.append("(at, seq) < (?, ?)")
        values += [*query.after]
    if query.since is not None:
        bounds.append("at >= ?")
        values.append(query.since)
    window = f"FROM activity WHERE {' AND '.join(bounds)} ORDER BY at DESC, seq DESC LIMIT ?"
    values.append(query.scan)
    clauses, filters = _filters(query)
    where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
    found = (
        f"SELECT {ACTIVITY_COLUMNS} FROM (SELECT {ACTIVITY_COLUMNS} {window}) AS w{where} "
        "ORDER BY at DESC, seq DESC LIMIT ?"
    )
    edge = (
        f"SELECT at, seq, (SELECT count(*) FROM (SELECT seq {window}) AS c) "
        f"FROM (SELECT at, seq {window}) AS w ORDER BY at, seq LIMIT 1"
    )
    return (found, [*values, *filters, query.limit]), (edge, [*values, *values])


def newest(query: ActivityQuery, found: Sequence[Record], edge: tuple[int, int, int] | None) -> ActivityPage:
    """`edge`: the oldest record of the window and the window's size; None where it is empty."""
    if len(found) == query.limit:
        return ActivityPage(tuple(found), (found[-1].at, found[-1].seq))
    at_end = edge is None or edge[2] < query.scan
    return ActivityPage(tuple(found), None if at_end or edge is None else (edge[0], edge[1]))


def matches(query: ActivityQuery, record: Record) -> bool:
    who, what, correlation = fold(query.who), fold(query.what), fold(query.correlation)
    return (
        (not who or who in (fold(record.actor), fold(record.actor_name)))
        and (not what or re.search(re.escape(what).replace(r"\*", ".*"), fold(record.action)) is not None)
        and (not correlation or fold(record.correlation) == correlation)
        and _below(query.scope, record.scope)
        and _below(query.resource, record.resource)
        and (query.until is None or record.at < query.until)
        and (not query.refused or record.outcome is Outcome.REFUSED)
    )


def _filters(query: ActivityQuery) -> tuple[list[str], list[Any]]:
    clauses: list[str] = []
    values: list[Any] = []
    if query.who:
        clauses.append("(lower(actor) = ? OR lower(actor_name) = ?)")
        values += [fold(query.who)] * 2
    if query.what:
        clauses.append("lower(action) LIKE ? ESCAPE '\\'")
        values.append(f"%{_escaped(fold(query.what)).replace('*', '%')}%")
    for column, value in (("scope", query.scope), ("resource", query.resource)):
        if value:
            clauses.append(_BELOW.format(column=column))
            values += [fold(value), _escaped(fold(value)) + "/%"]
    if query.correlation:
        clauses.append("lower(correlation) = ?")
        values.append(fold(query.correlation))
    if query.until is not None:
        clauses.append("at < ?")
        values.append(query.until)
    if query.refused:
        clauses.append("outcome = ?")
        values.append(str(Outcome.REFUSED))
    return clauses, values


def _escaped(text: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", text)


def _below(wanted: str, have: str) -> bool:
    scope, place = fold(wanted), fold(have)
    return not scope or place == scope or place.startswith(scope + "/")
