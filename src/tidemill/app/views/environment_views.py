"""An environment version as people read it: what it is made of, what was built of it, and its build's log."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from tidemill.app.assets.environments import plan_environment
from tidemill.app.rows.asset_rows import ENVIRONMENTS, container_key
from tidemill.app.rows.codec import job_status
from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.catalog.curated import CuratedEnvironment
from tidemill.domain.errors import TidemillError
from tidemill.domain.model import JobState, Scope
from tidemill.domain.plan import PlannedEnvironment
from tidemill.environments.built import EnvironmentRecord
from tidemill.store.api import ResourceQuery

TAIL = 64 * 1024  # bytes of a build's log that are shown


def curated(s: Services) -> list[dict[str, Any]]:
    """CuratedSummary of all, by name."""
    found = [{"name": one.azure_name, "packages": len(one.pip), "note": one.note} for one in s.curated.list()]
    return sorted(found, key=lambda one: str(one["name"]).casefold())


def curated_detail(found: CuratedEnvironment) -> dict[str, Any]:
    """As AssetDetail, of what is in the catalogue and no row."""
    spec = {"condaFile": found.conda_text(), "image": found.image, "environmentType": "Curated"}
    return {
        "name": found.azure_name,
        "version": found.version,
        "description": "",  # what is to be said of it is among the notes of its state
        "tags": {},
        "archived": False,
        "name_archived": False,
        "created_at": None,
        "created_by": "Tidemill",
        "versions": [],
        "more_versions": False,
        "spec": spec,
    }


async def state(s: Services, scope: Scope, name: str, version: str) -> dict[str, Any]:
    """EnvironmentState: {"state": built | building | failed | not built | refused, "why", "waiting": names of
    the jobs that wait for it, "record", "packages", "notes", "log"}."""
    try:
        planned = await plan_environment(s, scope, f"azureml:{name}:{version}")
    except TidemillError as error:
        return _state("refused", why=error.message)
    waiting = [
        row.key.name
        for row in await s.store.read(
            lambda read: read.find(ResourceQuery("jobs", scope, states=(JobState.PREPARING,)))
        )
        if job_status(row.status).plan.environment.digest == planned.digest
    ]
    text, cut = await asyncio.to_thread(_tail, s, planned.digest)
    log = {"text": text, "cut": cut}
    record, there = _built(s, planned)
    if there:
        return _state("built", record, planned.notes, waiting, log, image=planned.image_digest)
    state = "building" if waiting else "failed" if text else "not built"
    return _state(state, record, planned.notes, waiting, log)


def _state(
    state: str,
    record: EnvironmentRecord | None = None,
    notes: Sequence[str] = (),
    waiting: Sequence[str] = (),
    log: dict[str, Any] | None = None,
    why: str = "",
    image: str = "",
) -> dict[str, Any]:
    return {
        "state": state,
        "why": why,
        "notes": list(dict.fromkeys([*notes, *(record.notes if record else ())])),
        "waiting": list(waiting),
        "log": log or {"text": "", "cut": False},
        "image": image,
        "packages": packages(record.lock_text) if record else [],
        "record": None
        if record is None
        else {
            "digest": record.digest,
            "python": record.python_version,
            "built_at": iso(record.built_at),
            "seconds": record.seconds,
            "size": record.size,
        },
    }


def _built(s: Services, planned: PlannedEnvironment) -> tuple[EnvironmentRecord | None, bool]:
    """-> (what was built of its packages, whether a job can be given it as it is)."""
    digest = planned.built if planned.in_image else planned.digest
    known = s.environments.find(digest) if digest else None
    record = None if known is None else s.environments.describe(digest)
    if planned.in_image:
        return record, bool(planned.image_digest) and (not planned.packages or record is not None)
    return record, record is not None or not planned.digest


def packages(lock: str) -> list[dict[str, Any]]:
    """Of the text of a lock: {"name", "version", "hashes": ["sha256:…"]}, by name. What is no `name==version`
    (an address) has its whole line as its name."""
    found: list[dict[str, Any]] = []
    for raw in lock.splitlines():
        line = raw.strip().rstrip("\\").strip()
        if line.startswith("--hash="):
            if found:
                found[-1]["hashes"].append(line.removeprefix("--hash="))
        elif line and line[0] not in "#-":
            words = line.split(" --hash=")
            name, _, version = words[0].split(";")[0].strip().partition("==")
            found.append({"name": name, "version": version, "hashes": words[1:]})
    return found


def _tail(s: Services, digest: str) -> tuple[str, bool]:
    """-> (the end of the build's log, whether it has a beginning that is left out)."""
    if not digest:
        return "", False
    try:
        with open(s.environments.log_path(digest), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAIL, 0))
            return file.read(TAIL).decode("utf-8", "replace"), size > TAIL
    except OSError:
        return "", False


async def is_registered(s: Services, scope: Scope, name: str) -> bool:
    """Whether the workspace has an environment of that name: it then counts before a curated one."""
    return await s.store.read(lambda read: read.get(container_key(scope, ENVIRONMENTS, name)) is not None)
