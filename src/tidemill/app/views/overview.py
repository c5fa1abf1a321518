"""The server at a glance, and the catalogue of sizes."""

from __future__ import annotations

import os
from typing import Any

from tidemill import __version__
from tidemill.app.jobs import costs
from tidemill.app.people.access import decide
from tidemill.app.services import Services
from tidemill.app.workspaces.workspaces import scope_of
from tidemill.domain.ids import PROVIDER
from tidemill.domain.model import Caller, JobState, NodeState
from tidemill.store.api import Read, ResourceQuery

_WAITING = (JobState.QUEUED.value, JobState.PREPARING.value, JobState.PROVISIONING.value)
_FINAL = tuple(state.value for state in JobState if state.final)
_BUSY_NOT = (*_WAITING, *_FINAL)
_READ = f"{PROVIDER}/workspaces/read"


def _count_nodes(read: Read) -> int:
    return sum(node.state is not NodeState.PARKED for node in read.live_nodes())


async def status(s: Services, caller: Caller) -> dict[str, Any]:
    """`workspaces`, `queued` and `running` are what the caller may see; `nodes` are the host's."""
    rows, nodes = await s.store.read(
        lambda r: (r.find(ResourceQuery("workspaces", ascending=True)), _count_nodes(r))
    )
    seen = [row for row in rows if (await decide(s, caller, _READ, scope_of(row))).allowed]
    # All of them together are counted at once.
    scopes = [None] if len(seen) == len(rows) else [scope_of(row) for row in seen]
    queued, running = await s.store.read(
        lambda r: (
            sum(r.count(ResourceQuery("jobs", scope, states=_WAITING)) for scope in scopes),
            sum(r.count(ResourceQuery("jobs", scope, exclude_states=_BUSY_NOT)) for scope in scopes),
        )
    )
    return {
        "version": __version__,
        "pid": os.getpid(),
        "home": str(s.settings.home),
        "addresses": {"https": s.addresses.https, "http": s.addresses.http, "data": s.addresses.data},
        "capacity": s.settings.capacity,
        "workspaces": [
            {
                "subscription": row.key.scope.subscription,
                "resourceGroup": row.key.scope.group,
                "name": row.key.name,
            }
            for row in seen
        ],
        "queued": queued,
        "running": running,
        "nodes": nodes,
    }


def sizes(s: Services, region: str) -> list[dict[str, Any]]:
    """Every size of the catalogue with its list price in a region, by name; `host` has none."""
    return [
        {
            "name": size.name,
            "vcpus": size.vcpus,
            "memory_gib": size.memory / 2**30,
            "gpus": size.gpus,
            "gpu_model": size.gpu_model,
            "family": size.family,
            **costs.listed(s, size.name, region),
        }
        for size in s.sizes.list()
    ]
