"""Parallel steps of pipelines, as Azure's YAML and SDK describe them
(https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-parallel): read, refused, and what
their jobs carry of them.

Such a job is a command job of one process a node (`serving/batch/`), whose command is the entry script and
its arguments; `properties.parallel` has the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from tidemill.domain.components import maybe, text_of
from tidemill.domain.errors import InvalidRequest, NotOffered

KEY = "parallel"  # among a job's ARM properties
RUN_FUNCTION = "run_function"
ROWS_FILE = "parallel_run_step.txt"  # Azure's name for appended rows in a folder
NO_CODE = "mlflow_model.py"  # the command of a step whose model needs no script
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_SIZE = re.compile(r"(\d+)\s*([kmg]b)?\Z", re.IGNORECASE)
_UNITS = {"": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
_BOUND = re.compile(r"\$\{\{\s*(inputs|outputs)\.([A-Za-z_][\w.\-]*)\s*\}\}\Z")
_PERCENT = re.compile(r"--allowed_failed_percent[ =](\S+)")
# Azure's own: (default, least, most).
_NUMBERS = {
    "max_concurrency_per_instance": (1, 1, 1024),
    "error_threshold": (-1, -1, 2**31 - 1),
    "mini_batch_error_threshold": (-1, -1, 2**31 - 1),
}
_RETRIES = {"max_retries": (2, 0, 2**31 - 1), "timeout": (60, 1, 259_200)}


@dataclass(frozen=True, slots=True)
class ParallelPlan:
    """`input`, `append_to`: names of an input and an output, the latter "" for none. `size`: files, or bytes
    of a table; None: 10 files, 1 MiB. Thresholds: -1 allows any number of failures. Of a batch deployment
    besides: `model`, the input that the script finds as AZUREML_MODEL_DIR, `results_in`, the output that it
    finds as AZUREML_BI_OUTPUT_PATH, "" for none; `script` "" where the model is an mlflow_model by itself."""

    script: str
    input: str
    size: int | None = None
    partition_keys: tuple[str, ...] = ()
    concurrency: int = 1
    retries: int = 2
    timeout_s: int = 60
    batch_errors: int = -1
    item_errors: int = -1
    failed_percent: float | None = None
    append_to: str = ""
    logging_level: str = "INFO"
    append_name: str = ROWS_FILE
    model: str = ""
    results_in: str = ""


@dataclass(frozen=True, slots=True)
class ParallelProgress:
    """Of mini-batches, as far as their results are stored. `items` without a result are `item_errors`."""

    total: int
    finished: int = 0
    failed: int = 0
    items: int = 0
    item_errors: int = 0
    workers: int = 0


def settings_of(step: str, spec: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """`properties.parallel` of a step's job: the component's settings under the step's own. Raises
    InvalidRequest or NotOffered, naming the key and the fix."""

    def own(name: str) -> Any:
        given = node.get(name)
        return spec.get(name) if given in (None, [], {}) else given

    where = f"properties.jobs.{step}"
    task = task_of(spec, node)
    kind = text_of(task.get("type")) or RUN_FUNCTION
    if kind.lower() not in (RUN_FUNCTION, "function"):
        raise NotOffered(
            f"Step {step!r}: task.type is {kind!r}; Tidemill runs {RUN_FUNCTION!r} alone: an entry script "
            "with init() and run(mini_batch).",
            f"{where}.task.type",
        )
    script = text_of(task.get("entry_script"))
    if not script and not task.get("model"):
        raise InvalidRequest(
            f"Step {step!r} has no task.entry_script: the file with init() and run(mini_batch).",
            target=f"{where}.task.entry_script",
        )
    arguments = text_of(task.get("program_arguments")).strip()
    settings: dict[str, Any] = {
        "entry_script": script,
        "input_data": _bound(step, "inputs", own("input_data"), f"{where}.input_data"),
        "mini_batch_size": _size(step, own("mini_batch_size"), f"{where}.mini_batch_size"),
        "partition_keys": _keys(step, own("partition_keys"), f"{where}.partition_keys"),
        "logging_level": _level(step, own("logging_level"), f"{where}.logging_level"),
        "allowed_failed_percent": _percent(step, arguments, f"{where}.task.program_arguments"),
    }
    for name, space in (("append_row_to", "outputs"), ("results_in", "outputs"), ("model", "inputs")):
        if task.get(name):
            settings[name] = _bound(step, space, task[name], f"{where}.task.{name}")
    if task.get("append_file_name"):
        settings["append_file_name"] = file_name(task["append_file_name"], f"{where}.task.append_file_name")
    for name, bounds in _NUMBERS.items():
        settings[name] = _number(step, name, own(name), bounds, where)
    retry = {**maybe(spec.get("retry_settings")), **_given(node.get("retry_settings"))}
    for name, bounds in _RETRIES.items():
        settings[name] = _number(step, f"retry_settings.{name}", retry.get(name), bounds, where)
    return {key: value for key, value in settings.items() if value not in (None, [])}


def task_of(spec: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    return {**maybe(spec.get("task")), **_given(node.get("task"))}


def command_of(task: Mapping[str, Any]) -> str:
    """What the job's `command` says: the script and its arguments."""
    script = text_of(task.get("entry_script")) or NO_CODE
    return f"{script} {text_of(task.get('program_arguments')).strip()}".strip()


def file_name(raw: Any, where: str) -> str:
    """Raises InvalidRequest for one that is a path."""
    name = text_of(raw)
    if "/" in name or "\\" in name or "\0" in name or name in ("", ".", "..") or len(name.encode()) > 255:
        raise InvalidRequest(
            f"{where.rsplit('.', 1)[-1]} {name[:80]!r} must be the name of a file, without folders: "
            "the folder is the output's own address.",
            target=where,
        )
    return name


def read_plan(properties: Mapping[str, Any]) -> ParallelPlan | None:
    """Of a job that was made from a step; None for any other."""
    given = maybe(properties.get(KEY))
    if not given:
        return None
    percent = given.get("allowed_failed_percent")
    return ParallelPlan(
        str(given["entry_script"]),
        str(given["input_data"]),
        given.get("mini_batch_size"),
        tuple(given.get("partition_keys") or ()),
        given["max_concurrency_per_instance"],
        given["max_retries"],
        given["timeout"],
        given["mini_batch_error_threshold"],
        given["error_threshold"],
        None if percent is None else float(percent),
        str(given.get("append_row_to") or ""),
        str(given.get("logging_level") or "INFO"),
        str(given.get("append_file_name") or ROWS_FILE),
        str(given.get("model") or ""),
        str(given.get("results_in") or ""),
    )


def _given(raw: Any) -> dict[str, Any]:
    return {key: value for key, value in maybe(raw).items() if value is not None}


def _bound(step: str, space: str, raw: Any, where: str) -> str:
    found = _BOUND.match(text_of(raw).strip())
    if found is None or found[1] != space:
        key = where.rsplit(".", 1)[-1]
        raise InvalidRequest(
            f"Step {step!r}: {key} is {raw!r}; it must name one of the step's {space}, as in "
            f"${{{{{space}.NAME}}}}.",
            target=where,
        )
    return found[2]


def _size(step: str, raw: Any, where: str) -> int | None:
    text = text_of(raw).strip()
    if not text:
        return None
    found = _SIZE.match(text)
    if found is None or not int(found[1]):
        raise InvalidRequest(
            f"Step {step!r}: mini_batch_size is {raw!r}; give a number of files, as 5, or for a table a "
            "size, as 10kb, 1mb. An expression is not offered here.",
            target=where,
        )
    return int(found[1]) * _UNITS[(found[2] or "").lower()]


def _keys(step: str, raw: Any, where: str) -> list[str]:
    """A list, or one as JSON: so the SDK sends it."""
    found: Any = raw or []
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            found = None
    if not isinstance(found, list) or not all(isinstance(key, str) for key in cast(list[Any], found)):
        raise InvalidRequest(
            f"Step {step!r}: partition_keys is {raw!r}; it must be a list of names.", target=where
        )
    return cast(list[str], found)


def _level(step: str, raw: Any, where: str) -> str:
    level = text_of(raw).upper() or "INFO"
    if level not in LEVELS:
        raise InvalidRequest(
            f"Step {step!r}: logging_level is {raw!r}. Use one of {', '.join(LEVELS)}.", target=where
        )
    return level


def _percent(step: str, arguments: str, where: str) -> float | None:
    found = _PERCENT.search(arguments)
    if found is None:
        return None
    try:
        value = float(found[1])
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise InvalidRequest(
            f"Step {step!r}: --allowed_failed_percent is {found[1]!r}; it must be from 0 to 100.",
            target=where,
        )
    return value


def _number(step: str, name: str, raw: Any, bounds: tuple[int, int, int], where: str) -> int:
    default, least, most = bounds
    text = text_of(raw).strip()
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise InvalidRequest(
            f"Step {step!r}: {name} is {raw!r}; it must be a whole number from {least} to {most}.",
            target=f"{where}.{name}",
        )
    return value
