"""Services of a job that cannot be started are told in its time line, and fail nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from world import FOREVER, World, make

from tidemill.domain.model import JobState


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await make(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def test_what_the_engine_cannot_start_is_told(world: World) -> None:
    world.plans["j"] = FOREVER
    services = {"lab": {"jobServiceType": "JupyterLab"}, "board": {"jobServiceType": "TensorBoard"}}
    row = await world.submit("j", services=services)

    def told() -> list[str]:
        return [e.message for e in world.read().events(row.uid) if e.code == "ServiceNotRunning"]

    await world.until(lambda: len(told()) == 2, "both are told")
    assert sorted(message.split(":")[0] for message in told()) == [
        "Service board (TensorBoard) does not run",
        "Service lab (JupyterLab) does not run",
    ]
    assert "the fake engine runs no process" in told()[0]
    await world.until(lambda: world.row("j").state == JobState.RUNNING, "it runs on")
