"""A package whose environment never gets ready: it fails in time, and the next one has its turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from world import OWNER, SCOPE, World, make

from tidemill.app.assets import assets
from tidemill.app.assets.storage import account_for
from tidemill.app.rows.asset_rows import CODES, ENVIRONMENTS, MODELS
from tidemill.app.rows.package_rows import package_status
from tidemill.app.serving import packages
from tidemill.domain.model import Resource

BELOW = "azureml://datastores/workspaceblobstore/paths"
CONDA = "name: e\ndependencies:\n  - python=3.11\n  - pip\n  - pip: [numpy]\n"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await make(tmp_path)
    account = account_for(made.read(), SCOPE)
    for path in ("m/weights", "src/score.py"):
        made.services.blobs.put_bytes(account, "azureml-blobstore", path, b"#")
    for kind, name, given in (
        (MODELS, "m", {"modelUri": f"{BELOW}/m"}),
        (CODES, "src", {"codeUri": f"{BELOW}/src"}),
        (ENVIRONMENTS, "e", {"condaFile": CONDA}),
    ):
        await assets.put_version(made.services, OWNER, SCOPE, kind, name, "1", {"properties": given})
    await made.start()
    yield made
    await made.stop()


async def begin(world: World, name: str) -> Resource:
    code = {"codeId": "azureml:src:1", "scoringScript": "score.py"}
    body = {
        "targetEnvironmentId": name,
        "inferencingServer": {"serverType": "AzureMLOnline", "codeConfiguration": code},
        "baseEnvironmentSource": {"resourceId": "azureml:e:1"},
    }
    return await packages.begin(world.services, OWNER, SCOPE, "m", "1", body)


async def test_it_fails_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.controllers.packaging.BUILD_S", 0.05)
    monkeypatch.setattr(world.services.environments, "ensure", lambda spec, log: asyncio.Event().wait())
    made = [await begin(world, name) for name in ("one", "two")]
    await world.until(lambda: all(world.read().get(row.key).state == "Failed" for row in made), "both failed")
    problem = package_status(world.read().get(made[0].key)).error
    assert problem is not None
    assert (problem.code, problem.message) == (
        "EnvironmentTimeout",
        "Environment e:1 was not ready within 50 ms. Package again to go on.",
    )
