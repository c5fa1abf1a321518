"""Fixtures of the engine suite."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from engine_support import DEADLINE_S, HELPED, Harness, RealClock, fake_plan, helped_harness, local_engine

from tidemill.engines.fake import FakeEngine


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether an agent lives is asked for as long as a busy host makes it take."""
    monkeypatch.setattr("tidemill.engines.local.HELD_TIMEOUT_S", DEADLINE_S)


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Harness]:
    if not sys.platform.startswith("linux"):
        pytest.skip("the local engine needs Linux")
    if HELPED:
        harness = helped_harness()
        yield harness
        await harness.close()
        return
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "envs").mkdir()
    harness = Harness(local_engine(home), lambda: local_engine(home), home)
    yield harness
    await harness.close()


@pytest.fixture(params=["local", "fake"])
async def any_engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    """Both engines: what holds for one must hold for the other, or tests on the fake prove nothing."""
    if request.param == "fake":
        fake = FakeEngine(tmp_path, RealClock(), plan=fake_plan)

        def again() -> FakeEngine:
            fake.reattach()
            return fake

        harness = Harness(fake, again, tmp_path)
    elif HELPED:
        harness = helped_harness()
    else:
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        harness = Harness(local_engine(home), lambda: local_engine(home), home)
    yield harness
    await harness.close()
