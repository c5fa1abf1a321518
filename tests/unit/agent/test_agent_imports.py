"""The agent loads the standard library and two rooms of ours: that keeps it small and quick to start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tidemill.agent import main

HEAVY = {"asyncio", "dataclasses", "inspect", "typing", "subprocess", "logging"}


def test_what_an_agent_loads() -> None:
    root = str(Path(main.__file__).parents[2])
    code = f"import sys; sys.path.append({root!r}); import tidemill.agent.main; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    ours = {m for m in loaded if m.split(".")[0] == "tidemill"} - {"tidemill"}
    assert {m.split(".")[1] for m in ours} == {"agent", "sandbox"}
    assert {m.split(".")[0] for m in loaded} - set(sys.stdlib_module_names) - {"tidemill"} <= {"__main__"}
    assert not HEAVY & set(loaded)
