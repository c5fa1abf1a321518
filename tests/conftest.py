"""What tests of the whole server share: a running server in a scratch home, and the SDK's own Python."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tidemill.sandbox import disk

# A busy machine says nothing of an example: how long one takes is no failure.
settings.register_profile("tidemill", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tidemill")

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class RunningServer:
    """`state` is server.json; `env` what `tidemill env` prints."""

    home: Path
    state: dict[str, Any]
    env: dict[str, str]

    @property
    def workspace_id(self) -> str:
        where = self.state["workspace"]
        group = f"/subscriptions/{where['subscription']}/resourceGroups/{where['group']}"
        return f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{where['name']}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of its own for each test module, on free ports."""
    from tidemill.server import launch

    home = tmp_path_factory.mktemp("home")
    # Tests name images that only the public registries have: the host stands in for them.
    state = launch.up(home, https_port=0, http_port=0, data_port=0, images="prefer-host", detach=True)
    try:
        yield RunningServer(home, state, launch.variables(home))
    finally:
        launch.down(home)
        _end_agents(home)


def _end_agents(home: Path) -> None:
    """A server that stops leaves its nodes to its next start: here there is none."""
    nodes = f"{home / 'nodes'}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(word.startswith(nodes) for word in (process / "cmdline").read_bytes().split(b"\0")):
                os.kill(int(process.name), signal.SIGKILL)


@pytest.fixture(scope="session", autouse=True)
def work_disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work disks of nodes that a test killed, or left with files that nobody collects."""
    yield
    base = str(tmp_path_factory.getbasetemp())
    with suppress(FileNotFoundError), open("/proc/self/mountinfo") as file:
        for where in [line.split(" ")[4] for line in file]:
            if where.startswith(f"{base}/") and where.endswith("/work"):
                disk.detach(where)


@pytest.fixture(scope="session")
def sdk_python() -> str:
    """The Python of a venv that has the unmodified azure-ai-ml: TIDEMILL_SDK_PYTHON or .venv-sdk."""
    python = os.environ.get("TIDEMILL_SDK_PYTHON") or str(ROOT / ".venv-sdk" / "bin" / "python")
    found = (
        subprocess.run([python, "-c", "import azure.ai.ml"], capture_output=True)
        if os.path.exists(python)
        else None
    )
    if found is None or found.returncode != 0:
        message = f"azure-ai-ml is not installed for {python}; set TIDEMILL_SDK_PYTHON or run `make test`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return python
