"""The server at a glance, and the catalogue of sizes."""

from __future__ import annotations

import os
from typing import Any

from tidemill import __version__
from tidemill.app import costs
from tidemill.app.services import Services
from tidemill.domain.model import JobState
from tidemill.store.api import ResourceQuery

_WAITING = (JobState.QUEUED.value, JobState.PREPARING.value, JobState.PROVISIONING.value)
_FINAL = tuple(state.value for state in JobState if state.final)


async def status(s: Services) -> dict[str, Any]:
    rows, queued, running, nodes = await s.store.read(
        lambda r: (
            r.find(ResourceQuery("workspaces", ascending=True)),
            r.count(ResourceQuery("jobs", states=_WAITING)),
            r.count(ResourceQuery("jobs", exclude_states=(*_WAITING, *_FINAL))),
            len(r.live_nodes()),
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
            for row in rows
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
