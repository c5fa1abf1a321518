"""Putting an attempt's files in place before it starts, and its results into storage after it ended.

Layout of an attempt's directory on a node (the job sees it, its uid owns it):
    code/      the code folder, the working directory of the command
    inputs/<name>/…   outputs/<name>/…   logs/user_logs/std_log*.txt
Both directions can be repeated: a controller that died half-way does them again.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from tidemill.app.services import Services
from tidemill.data.outputs import collect_logs, collect_outputs, prepare_outputs
from tidemill.data.staging import stage_code, stage_inputs
from tidemill.domain.plan import JobPlan

LOGS = "logs"
STAGED = ".staged"


@dataclass(frozen=True, slots=True)
class Staged:
    """Where things lie on one node. `values`: what `${{inputs.x}}` and `${{outputs.y}}` become."""

    root: Path
    cwd: Path
    logs: Path
    inputs: dict[str, str]
    outputs: dict[str, str]
    notes: tuple[str, ...]
    copied_bytes: int
