"""A parallel step on its node: the files of `serving/batch/`, and the spec that they are started with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import tidemill
from tidemill.app.services import Services
from tidemill.data import plain_yaml
from tidemill.data.mltable import FILE
from tidemill.data.staging import MLTABLE, clear
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.expressions import render_command
from tidemill.domain.launch import BATCH_RUNTIME, BATCH_SPEC
from tidemill.domain.model import Resource
from tidemill.domain.parallel import ParallelPlan
from tidemill.domain.plan import JobPlan

SOURCES = Path(tidemill.__file__).parent / "serving" / "batch"


def stage(
    plan: JobPlan,
    batches: ParallelPlan,
    root: Path,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
) -> None:
    """Blocks: call it in a thread. Can be repeated. Raises InvalidRequest."""
    clear(root / BATCH_RUNTIME)
    shutil.copytree(SOURCES, root / BATCH_RUNTIME, ignore=shutil.ignore_patterns("__pycache__"))
    given = next(item for item in plan.inputs if item.name == batches.input)
    arguments = render_command(plan.job.command, inputs, outputs)[len(batches.script) :].strip()
    append_to = outputs.get(batches.append_to, "") if batches.append_to else ""
    kind = next((o.type for o in plan.outputs if o.name == batches.append_to), "")
    if append_to and kind != "uri_file":
        append_to = f"{append_to}/parallel_run_step.txt"  # Azure's name for it in a folder
    spec = {
        "version": 1,
        "script": f"{root}/code/{batches.script}",
        "arguments": arguments,
        "input": inputs[batches.input],
        "table": _table(Path(inputs[batches.input]), given.given) if given.type == MLTABLE else None,
        "size": batches.size,
        "partition_keys": batches.partition_keys,
        "concurrency": batches.concurrency,
        "retries": batches.retries,
        "timeout_s": batches.timeout_s,
        "batch_errors": batches.batch_errors,
        "item_errors": batches.item_errors,
        "failed_percent": batches.failed_percent,
        "append_to": append_to,
        "logging_level": batches.logging_level,
    }
    (root / BATCH_SPEC).write_text(json.dumps(spec))


def variables(s: Services, row: Resource, root: str) -> dict[str, str]:
    scope = row.key.scope
    return {
        "TIDEMILL_BATCH": root,
        "TIDEMILL_BATCH_LEDGER": f"{s.addresses.http}/api/v1{scope.arm_id}/jobs/{row.key.name}/batches",
    }


def _table(folder: Path, given: str) -> dict[str, Any]:
    """The staged MLTable as JSON: there may be no reader of YAML where it is used."""
    try:
        found: Any = plain_yaml.load((folder / FILE).read_bytes())
        json.dumps(found)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"The {FILE} of {given} cannot be read: {error}.", "InvalidMLTable") from error
    if not isinstance(found, dict):
        raise InvalidRequest(f"The {FILE} of {given} is no mapping: it has 'paths'.", "InvalidMLTable")
    return cast(dict[str, Any], found)
