"""Searching runs and experiments, a page at a time. A page token says where the next page begins."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tidemill.app.services import Services
from tidemill.app.tracking.tracking_filter import Look, Value, matches, ordered, parse_filter, parse_order
from tidemill.app.tracking.tracking_jobs import DEFAULT_NAME, ensure_experiment, live, sync
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Scope
from tidemill.domain.units import parse_whole
from tidemill.store.tracking import ACTIVE, DELETED, Experiment, RunRecord

T = TypeVar("T")

_BATCH = 200
_VIEWS = {"ACTIVE_ONLY": ACTIVE, "DELETED_ONLY": DELETED, "ALL": None}
_RUN_NUMBERS = frozenset({"start_time", "end_time"})
_RUN_TEXTS = frozenset({"run_id", "run_name", "status", "user_id", "artifact_uri", "experiment_id"})
_EXPERIMENT_NUMBERS = frozenset({"creation_time", "last_update_time"})
_EXPERIMENT_TEXTS = frozenset({"name", "experiment_id"})


@dataclass(frozen=True, slots=True)
class Search:
    """What both searches take, as MLflow spells it."""

    filter: str = ""
    view: str = "ACTIVE_ONLY"
    order_by: tuple[str, ...] = ()
    limit: int = 1000
    token: str = ""


async def search_runs(
    s: Services, scope: Scope, experiment_ids: Sequence[str], search: Search
) -> tuple[list[RunRecord], str]:
    """-> (runs, token of the next page or ""). Newest first unless ordered."""
    clauses = parse_filter(search.filter, _RUN_NUMBERS, _RUN_TEXTS)
    orders = parse_order(search.order_by, _RUN_NUMBERS | _RUN_TEXTS)
    lifecycle = _lifecycle(search.view)
    kind, place = _read_token(search.token)
    await sync(s, scope)
    wanted = search.limit + 1
    found: list[RunRecord] = []
    after = place if kind == "after" else None
    while orders or len(found) < wanted:
        records = await s.tracking.search_runs(
            scope.arm_id, tuple(experiment_ids), lifecycle=lifecycle, limit=_BATCH, after=after
        )
        for record in await live(s, scope, records):
            if matches(clauses, _run_look(record)):
                found.append(record)
        if len(records) < _BATCH:
            break
        after = records[-1].run.id
        await asyncio.sleep(0)  # a long search lets others in
    if orders:
        return _slice(ordered(found, orders, _run_look), kind, place, search.limit)
    if len(found) < wanted:
        return found, ""
    return found[: search.limit], _token("after", found[search.limit - 1].run.id)


async def search_experiments(s: Services, scope: Scope, search: Search) -> tuple[list[Experiment], str]:
    clauses = parse_filter(search.filter, _EXPERIMENT_NUMBERS, _EXPERIMENT_TEXTS)
    orders = parse_order(search.order_by, _EXPERIMENT_NUMBERS | _EXPERIMENT_TEXTS)
    lifecycle = _lifecycle(search.view)
    kind, place = _read_token(search.token)
    await sync(s, scope)
    await ensure_experiment(s, scope, DEFAULT_NAME)
    known = await s.tracking.search_experiments(scope.arm_id, lifecycle=lifecycle)
    found = [experiment for experiment in known if matches(clauses, _experiment_look(experiment))]
    return _slice(ordered(found, orders, _experiment_look), kind, place, search.limit)


def _run_look(record: RunRecord) -> Look:
    run = record.run
    attributes: dict[str, Value | None] = {
        "run_id": run.id,
        "run_name": run.name,
        "status": run.status,
        "user_id": run.user,
        "artifact_uri": run.artifact_uri,
        "experiment_id": run.experiment_id,
        "start_time": run.start_at // 1000,
        "end_time": None if run.end_at is None else run.end_at // 1000,
    }
    tables: dict[str, Callable[[str], Value | None]] = {
        "attribute": attributes.get,
        "param": record.params.get,
        "tag": record.tags.get,
        "metric": lambda key: next((m.value for m in record.metrics if m.key == key), None),
    }
    return lambda entity, key: tables[entity](key)


def _experiment_look(experiment: Experiment) -> Look:
    attributes: dict[str, Value | None] = {
        "name": experiment.name,
        "experiment_id": experiment.id,
        "creation_time": experiment.created_at // 1000,
        "last_update_time": experiment.updated_at // 1000,
    }

    def look(entity: str, key: str) -> Value | None:
        if entity == "attribute":
            return attributes[key]
        return experiment.tags.get(key) if entity == "tag" else None

    return look


def _lifecycle(view: str) -> str | None:
    if view not in _VIEWS:
        raise InvalidRequest(f"View {view!r} does not exist. It is one of {', '.join(_VIEWS)}.")
    return _VIEWS[view]


def page_of(items: list[T], search: Search) -> tuple[list[T], str]:
    """One page of all that was found -> (page, token of the next one or "")."""
    return _slice(items, *_read_token(search.token), search.limit)


def _slice(items: list[T], kind: str, place: str, limit: int) -> tuple[list[T], str]:
    start = int(place) if kind == "offset" else 0
    end = start + limit
    return items[start:end], _token("offset", str(end)) if end < len(items) else ""


def _token(kind: str, place: str) -> str:
    return base64.urlsafe_b64encode(f"{kind} {place}".encode()).decode()


def _read_token(token: str) -> tuple[str, str]:
    if not token:
        return "", ""
    try:
        kind, _, place = base64.urlsafe_b64decode(token).decode().partition(" ")
    except ValueError:  # not base64, or not of text
        kind, place = "", ""
    if kind == "after" or (kind == "offset" and parse_whole(place) is not None):
        return kind, place
    raise InvalidRequest(f"The page token {token!r} is not one that this server gave.", target="page_token")
