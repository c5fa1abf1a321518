"""ResourceQuery to SQL. A list in uid order is merged from ranges of one index, a range per value of what the
query leaves open (state, archived): the cost follows the rows that are asked for, not the rows that exist.

The text is portable: `?` parameters, `x || ''` to keep a planner from choosing an index by that column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from tidemill.store.api import Granted, ResourceQuery
from tidemill.store.rows import RESOURCE_COLUMNS, fold, scope_key, whole_key

Params = Sequence[Any]
Run = Callable[[str, Params], Any]


def find_sql(run: Run, query: ResourceQuery, columns: str = RESOURCE_COLUMNS) -> tuple[str, Params] | None:
    """The statement of `find`, or of those columns of its rows. None: nothing can match."""
    branches = _branches(run, query)
    order = "uid" if query.ascending else "uid DESC"
    tail, limit = (" LIMIT ?", (query.limit,)) if query.limit else ("", ())
    if query.after is not None:
        step = " AND uid > ?" if query.ascending else " AND uid < ?"
        branches = [(where + step, (*params, query.after)) for where, params in branches]
    if not branches:
        return None
    # What was granted lies anywhere: its uids are sorted first, and only the page's rows are read.
    if len(branches) == 1 and query.granted is None:
        where, params = branches[0]
        return f"SELECT {columns} FROM resources WHERE {where} ORDER BY {order}{tail}", (
            *params,
            *limit,
        )
    parts = [
        f"SELECT uid FROM (SELECT uid FROM resources WHERE {where} ORDER BY {order}{tail}) AS b{i}"
        for i, (where, _) in enumerate(branches)
    ]
    values = [value for _, params in branches for value in (*params, *limit)]
    union = " UNION ALL ".join(parts)
    return (
        f"SELECT {columns} FROM resources WHERE uid IN (SELECT uid FROM ({union}) AS u "
        f"ORDER BY {order}{tail}) ORDER BY {order}",
        (*values, *limit),
    )


def count_sql(run: Run, query: ResourceQuery) -> tuple[str, Params] | None:
    """The statement of `count`: all that match, whatever `limit` and `after` say."""
    branches = _branches(run, query)
    if not branches:
        return None
    parts = [f"(SELECT count(*) FROM resources WHERE {where})" for where, _ in branches]
    return f"SELECT {' + '.join(parts)}", [value for _, params in branches for value in params]


def _branches(run: Run, query: ResourceQuery) -> list[tuple[str, Params]]:
    """WHERE clauses that exclude each other, each a range of one index in uid order."""
    type_key = fold(query.type)
    scope = None if query.scope is None else scope_key(query.scope)
    fixed: list[tuple[str, Any]] = [("type_key", type_key)]
    filters: list[tuple[str, Any]] = []
    literal = ""
    if query.granted is not None:
        return [_granted(query, query.granted)]
    by_state = query.states is not None or query.exclude_states is not None
    if query.digest:
        fixed, literal, by_state = [("digest", query.digest)], " AND digest <> ''", False
        filters.append(("type_key", type_key))
        _add(filters, "scope_key", scope)
        _add(filters, "parent_key", query.parent)
        _add(filters, "ref_key", query.ref)
        _add(filters, "parent_uid", query.parent_uid)
    elif query.ref:
        fixed.append(("ref_key", fold(query.ref)))
        literal, by_state = " AND ref_key <> ''", True
        _add(filters, "scope_key", scope)
        _add(filters, "parent_key", query.parent)
        _add(filters, "parent_uid", query.parent_uid)
    elif query.parent and scope is not None:
        fixed += [("scope_key", scope), ("parent_key", fold(query.parent))]
        literal, by_state = " AND parent_key <> ''", False
        _add(filters, "parent_uid", query.parent_uid)
    elif scope is not None and query.parent_uid is not None and (query.parent_uid or not by_state):
        fixed += [("scope_key", scope), ("parent_uid", query.parent_uid)]
        by_state = False
        _add(filters, "parent_key", query.parent)
    elif scope is not None:
        fixed.append(("scope_key", scope))
        _add(filters, "parent_key", query.parent)
        _add(filters, "parent_uid", query.parent_uid)
    else:
        by_state = True
        _add(filters, "parent_key", query.parent)
        _add(filters, "parent_uid", query.parent_uid)
    if query.ref == "":
        filters.append(("ref_key", ""))
    if query.digest == "":
        filters.append(("digest", ""))
    return _spread(run, query, fixed, filters, literal, by_state)


def _granted(query: ResourceQuery, granted: Granted) -> tuple[str, Params]:
    """From the assignments to their rows: the cost follows what was given to these principals."""
    assert query.scope is not None
    assert query.scope.workspace
    type_key = fold(query.type)
    above = f"{fold(query.scope.arm_id)}/{type_key}/"
    where = (
        "whole_key IN (SELECT ? || substr(scope_key, ?) FROM role_assignments "
        f"WHERE principal IN ({', '.join('?' * len(granted.principals))}) "
        f"AND role IN ({', '.join('?' * len(granted.roles))}) AND scope_key > ? AND scope_key < ?)"
    )
    values: list[Any] = [whole_key(scope_key(query.scope), type_key, "", ""), len(above) + 1]
    values += [*granted.principals, *granted.roles, above, above[:-1] + "0"]  # "0" follows "/"
    for column, value in (
        ("archived", query.archived),
        ("ref_key", query.ref),
        ("digest", query.digest),
        ("parent_uid", query.parent_uid),
    ):
        if value is not None:
            where += f" AND ({column} || '') = ?" if column != "archived" else " AND archived = ?"
            values.append(int(value) if isinstance(value, bool) else fold(value))
    return _state_filter(query, where, values)


def _add(filters: list[tuple[str, Any]], column: str, value: str | None) -> None:
    if value is not None:
        filters.append((column, fold(value)))


def _spread(
    run: Run,
    query: ResourceQuery,
    fixed: list[tuple[str, Any]],
    filters: list[tuple[str, Any]],
    literal: str,
    by_state: bool,
) -> list[tuple[str, Params]]:
    filter_text = "".join(f" AND ({column} || '') = ?" for column, _ in filters)
    filter_values = [value for _, value in filters]
    archived = (0, 1) if query.archived is None else (int(query.archived),)
    if fixed[0][0] == "digest":
        # So selective that everything else is a filter on a handful of rows.
        where = f"digest = ?{literal}{filter_text}"
        values: list[Any] = [fixed[0][1], *filter_values]
        if query.archived is not None:
            where, values = f"{where} AND archived = ?", [*values, archived[0]]
        where, values = _state_filter(query, where, values)
        return [(where, values)]
    prefix = " AND ".join(f"{column} = ?" for column, _ in fixed)
    prefix_values = [value for _, value in fixed]
    if not by_state:
        branches: list[tuple[str, Params]] = []
        for flag in archived:
            where = f"{prefix} AND archived = ?{literal}{filter_text}"
            branches.append(_state_filter(query, where, [*prefix_values, flag, *filter_values]))
        return branches
    states = _states(run, query, prefix + literal, prefix_values)
    where = f"{prefix} AND state = ? AND archived = ?{literal}{filter_text}"
    return [
        (where, [*prefix_values, state, flag, *filter_values]) for state, flag in product(states, archived)
    ]


def _state_filter(query: ResourceQuery, where: str, values: list[Any]) -> tuple[str, list[Any]]:
    for word, states in (("IN", query.states), ("NOT IN", query.exclude_states)):
        if states:
            where += f" AND (state || '') {word} ({', '.join('?' * len(states))})"
            values = [*values, *map(str, states)]
        elif states is not None and word == "IN":
            where += " AND 1 = 0"
    return where, values


def _states(run: Run, query: ResourceQuery, prefix: str, values: list[Any]) -> list[str]:
    """The states to merge: those asked for, or those that exist (one index seek for each)."""
    excluded = set(map(str, query.exclude_states or ()))
    if query.states is not None:
        return [state for state in dict.fromkeys(map(str, query.states)) if state not in excluded]
    found: list[str] = []
    step = "SELECT state FROM resources WHERE " + prefix
    row = run(f"{step} ORDER BY state LIMIT 1", values).fetchone()
    while row is not None:
        found.append(row[0])
        row = run(f"{step} AND state > ? ORDER BY state LIMIT 1", [*values, row[0]]).fetchone()
    return [state for state in found if state not in excluded]
