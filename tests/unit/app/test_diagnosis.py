"""Diagnose tries things out: what is broken is found broken."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from tidemill.app.assets.storage import account_for
from tidemill.app.services import Addresses
from tidemill.app.views import diagnosis
from tidemill.domain.errors import NotFound
from tidemill.domain.model import Scope


async def codes(services, scope, part: str) -> dict[str, str]:
    found = await diagnosis.diagnose(services, scope)
    return {one.code: one.level for one in found[part]}


async def test_storage_is_written_and_nothing_stays(services, scope):
    found = await codes(services, scope, "storage")
    assert found["StorageWorks"] == "Information"
    account = await services.store.read(lambda read: account_for(read, scope))
    assert services.blobs.list(account, "azureml-blobstore").blobs == ()


async def test_a_container_that_is_gone_is_named(services, scope):
    account = await services.store.read(lambda read: account_for(read, scope))
    services.blobs.delete_container(account, "azureml-blobstore")
    found = await codes(services, scope, "storage")
    assert found["ContainerMissing"] == "Error"
    assert found["StorageFailed"] == "Error"


async def test_a_storage_process_that_does_not_answer(services, scope):
    silent = replace(
        services, addresses=Addresses("https://localhost:1", "http://127.0.0.1:1", "https://localhost:1")
    )
    assert (await codes(silent, scope, "storage"))["StorageUnreachable"] == "Error"


async def test_a_disk_that_is_nearly_full(services, scope, monkeypatch):
    usage = shutil.disk_usage("/")._replace(total=100 * 2**30, free=2 * 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert (await codes(services, scope, "storage"))["DiskNearlyFull"] == "Warning"


async def test_what_is_well_is_said_with_the_versions(services, scope):
    assert (await codes(services, scope, "secrets"))["SecretsWork"] == "Information"
    assert "Versions" in await codes(services, scope, "other")
    with pytest.raises(NotFound):
        await diagnosis.diagnose(services, Scope(scope.subscription, scope.group, "nope"))
