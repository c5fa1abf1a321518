"""Who changes an endpoint is answered once the gateway goes by it; a silent gateway holds nobody up."""

from __future__ import annotations

import asyncio
import json
import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tidemill.app.live import Live
from tidemill.controllers import routing
from tidemill.controllers.routing import Routing
from tidemill.domain.serving.routes import FILE, FOLDER, SOCKET, Endpoint


class Rows:
    """A store of endpoints alone."""

    def __init__(self) -> None:
        self.endpoints: tuple[Endpoint, ...] = ()

    async def read(self, _: Any) -> tuple[Endpoint, ...]:
        await asyncio.sleep(0)
        return self.endpoints


@pytest.fixture
async def made(tmp_path):
    rows = Rows()
    settings, clock = SimpleNamespace(home=tmp_path), SimpleNamespace(now=lambda: 1)
    services = cast(Any, SimpleNamespace(settings=settings, clock=clock, store=rows, live=Live()))
    found = Routing(services)
    await found.start()
    yield found, rows, tmp_path / FOLDER
    await found.stop()


async def gateway(folder):
    """-> its line to control. The folder's path may be longer than a socket address."""
    here = os.getcwd()
    os.chdir(folder)
    try:
        return (await asyncio.open_unix_connection(SOCKET))[1]
    finally:
        os.chdir(here)


def written(folder):
    return (folder / FILE).read_bytes() if (folder / FILE).exists() else b""


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_it_is_settled_once_the_gateway_serves_it(made, monkeypatch):
    router, rows, folder = made
    monkeypatch.setattr(routing, "PATIENCE_S", 3600)
    line = await gateway(folder)
    line.write(b'{"version": 0, "deployments": {"d": {"rate": 2}}}\n')
    await until(lambda: router.connected)
    rows.endpoints = (Endpoint("s/g/w/e", "uid", "Key"),)
    router.changed()
    waits = asyncio.create_task(router.settled())
    await until(lambda: b"s/g/w/e" in written(folder))
    assert not waits.done()
    version = json.loads(written(folder))["version"]
    line.write(json.dumps({"version": version}).encode() + b"\n")
    async with asyncio.timeout(60):
        await waits
    line.close()


async def test_without_a_gateway_nobody_waits(made, monkeypatch):
    router, rows, folder = made
    monkeypatch.setattr(routing, "PATIENCE_S", 3600)
    rows.endpoints = (Endpoint("s/g/w/e", "uid", "Key"),)
    router.changed()
    async with asyncio.timeout(60):
        await router.settled()
    assert (folder / FILE).exists()


async def test_a_silent_gateway_holds_nobody_up_for_long(made, monkeypatch):
    router, rows, folder = made
    monkeypatch.setattr(routing, "PATIENCE_S", 0.05)
    line = await gateway(folder)
    await until(lambda: router.connected)
    rows.endpoints = (Endpoint("s/g/w/e", "uid", "Key"),)
    router.changed()
    async with asyncio.timeout(60):
        await router.settled()
    line.close()
