"""The agent loads the standard library and two rooms of ours: that keeps it small and quick to start."""

from __future__ import annotations

import subprocess
import sys

from tidemill.agent import main

HEAVY = {"asyncio", "dataclasses", "inspect", "typing", "subprocess", "logging"}


def test_what_an_agent_loads() -> None:
    code = (
        "import runpy, sys\n"
        f"runpy.run_path({main.__file__!r}, run_name='agent')\n"
        "print('\\n'.join(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    ours = {m for m in loaded if m.split(".")[0] == "tidemill"} - {"tidemill"}
    assert {m.split(".")[1] for m in ours} == {"agent", "sandbox"}
    assert {m.split(".")[0] for m in loaded} - set(sys.stdlib_module_names) - {"tidemill"} <= {"__main__"}
    assert not HEAVY & set(loaded) - _loaded_by("runpy")


def _loaded_by(module: str) -> set[str]:
    code = f"import {module}, sys; print(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())
