"""A parallel step on its node: the files of `serving/batch/`, and the spec that they are started with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import tidemill
from tidemill.app.services import Services
from tidemill.data import plain_yaml
from tidemill.data.blobtree import safe_parts
from tidemill.data.mltable import FILE
from tidemill.data.staging import MLTABLE, clear
from tidemill.data.uris import AssetId, AssetName, RegistryUri, parse_uri
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.expressions import render_command
from tidemill.domain.launch import BATCH_RUNTIME, BATCH_SPEC
from tidemill.domain.model import Resource
from tidemill.domain.parallel import NO_CODE, ParallelPlan
from tidemill.domain.plan import JobPlan
from tidemill.domain.serving.service import MODELS

SOURCES = Path(tidemill.__file__).parent / "serving" / "batch"
_OWN = f"scripts/{NO_CODE}"  # of the runtime's files


def stage(
    plan: JobPlan,
    batches: ParallelPlan,
    root: Path,
    inputs: dict[str, str],
    outputs: Mapping[str, str],
) -> None:
    """Blocks: call it in a thread. Can be repeated, after the inputs were staged again. Changes where a
    deployment's model is found among `inputs`. Raises InvalidRequest."""
    clear(root / BATCH_RUNTIME)
    shutil.copytree(SOURCES, root / BATCH_RUNTIME, ignore=shutil.ignore_patterns("__pycache__"))
    given = next(item for item in plan.inputs if item.name == batches.input)
    if batches.model:
        inputs[batches.model] = str(_show_model(plan, batches, root, Path(inputs[batches.model])))
    command = render_command(plan.job.command, inputs, outputs)
    append_to = outputs.get(batches.append_to, "") if batches.append_to else ""
    kind = next((o.type for o in plan.outputs if o.name == batches.append_to), "")
    if append_to and kind != "uri_file":
        append_to = f"{append_to}/{batches.append_name}"
    spec = {
        "version": 1,
        "script": f"{root}/code/{batches.script}" if batches.script else f"{root}/{BATCH_RUNTIME}/{_OWN}",
        "arguments": command[len(batches.script or NO_CODE) :].strip(),
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


def variables(
    s: Services, row: Resource, plan: JobPlan, batches: ParallelPlan, root: str, outputs: Mapping[str, str]
) -> dict[str, str]:
    """Of a batch deployment also what its script finds on Azure."""
    scope = row.key.scope
    found = {
        "TIDEMILL_BATCH": root,
        "TIDEMILL_BATCH_LEDGER": f"{s.addresses.http}/api/v1{scope.arm_id}/jobs/{row.key.name}/batches",
    }
    if batches.model:
        found["AZUREML_MODEL_DIR"] = f"{root}/{_model_folder(plan, batches)}"
    if batches.results_in:
        where = outputs[batches.results_in]
        kind = next(o.type for o in plan.outputs if o.name == batches.results_in)
        found["AZUREML_BI_OUTPUT_PATH"] = os.path.dirname(where) if kind == "uri_file" else where
    return found


def _model_folder(plan: JobPlan, batches: ParallelPlan) -> str:
    """As for online deployments."""
    uri = parse_uri(next(item.given for item in plan.inputs if item.name == batches.model))
    if isinstance(uri, AssetId | AssetName | RegistryUri):
        return f"{MODELS}/{uri.name}/{uri.version or uri.label}"
    return f"{MODELS}/model/1"


def _show_model(plan: JobPlan, batches: ParallelPlan, root: Path, staged: Path) -> Path:
    """Below AZUREML_MODEL_DIR lies the file or the folder that was registered, under its own name: moved,
    because scripts that look for a file below it do not follow links."""
    place = next(item.place for item in plan.inputs if item.name == batches.model)
    assert place is not None  # a deployment's model lies in our storage
    folder = root / _model_folder(plan, batches)
    clear(root / MODELS)
    folder.mkdir(parents=True)
    return staged.rename(folder / safe_parts(place.path.rstrip("/").rsplit("/", 1)[-1])[0])


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
