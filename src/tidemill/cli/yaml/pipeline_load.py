"""A pipeline's or a component's file -> a checked spec: what can be said of it without the server. Components
in files of their own are read with it, and their problems name their own lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tidemill.cli.errors import did_you_mean
from tidemill.cli.yaml import references
from tidemill.cli.yaml.document import Document, Problem, Trail, YamlError, read_file
from tidemill.cli.yaml.kinds import check
from tidemill.cli.yaml.load import Spec, check_environment_mapping, check_input, read_checked
from tidemill.cli.yaml.pipeline_schemas import COMPONENT

_STEP = re.compile(r"\$\{\{\s*parent\.jobs\.([A-Za-z_]\w*)(?:\.(outputs|inputs)\.([\w.]+))?\s*\}\}")
_INPUT = re.compile(r"\$\{\{\s*parent\.inputs\.([\w.]+)\s*\}\}")
_ANY = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)
MOST_DEEP = 16


def load_component(path: Path, settings: tuple[str, ...] = (), shown: str | None = None) -> Spec:
    """Raises YamlError (all problems), CliError for an unreadable file."""
    document, data, problems = read_checked(COMPONENT, path, settings, shown)
    if isinstance(document.data, dict) and data is not None:
        check_component(document, data, problems)
    if problems or data is None:
        raise YamlError(problems)
    return Spec(data, document)


def check_component(
    document: Document, data: dict[str, Any], problems: list[Problem], depth: int = 1
) -> None:
    if isinstance(data.get("code"), str):
        references.check_code(document, data["code"], ("code",), problems)
    _check_environment(document, data.get("environment"), ("environment",), problems)
    inputs, outputs = list(data.get("inputs") or {}), list(data.get("outputs") or {})
    references.check_expressions(document, data.get("command"), ("command",), inputs, outputs, problems)
    if data.get("type") == "parallel":
        _check_task(document, data, (), inputs, outputs, problems)
    if data.get("jobs"):
        check_steps(document, data["jobs"], inputs, problems, depth)


def check_pipeline(document: Document, data: dict[str, Any], problems: list[Problem]) -> None:
    inputs = data.get("inputs") or {}
    for name, value in inputs.items():
        if isinstance(value, dict):
            check_input(document, value, ("inputs", name), problems)
    if not data.get("jobs") and not data.get("component"):
        problems.append(Problem(document.place(()), "a pipeline job needs jobs (its steps) or a component."))
    for trail in (("compute",), ("settings", "default_compute")):
        value: Any = data
        for key in trail:
            value = (value or {}).get(key)
        if isinstance(value, str):
            references.check_compute(document, value, trail, problems)
    check_steps(document, data.get("jobs") or {}, list(inputs), problems, 1)


def check_steps(
    document: Document, steps: dict[str, Any], inputs: list[str], problems: list[Problem], depth: int
) -> None:
    for name, step in steps.items():
        if not isinstance(step, dict):
            continue
        trail: Trail = ("jobs", name)
        kind = step.get("type") or "command"
        if kind == "command" and not step.get("component") and not step.get("command"):
            problems.append(
                Problem(document.key_place(trail), f"step '{name}' needs a component or a command.")
            )
        if kind == "command" and step.get("command") and not step.get("component"):
            _check_inline(document, step, trail, problems)
        if kind == "parallel" and not step.get("component"):
            _check_parallel(document, step, trail, problems)
        if isinstance(step.get("compute"), str):
            references.check_compute(document, step["compute"], (*trail, "compute"), problems)
        _check_environment(document, step.get("environment"), (*trail, "environment"), problems)
        check_component_of(document, step, trail, problems, depth)
        if kind == "sweep":
            _check_trial(document, step, trail, problems)
        _check_bindings(document, step, trail, list(steps), inputs, problems)


def _check_inline(document: Document, step: dict[str, Any], trail: Trail, problems: list[Problem]) -> None:
    if isinstance(step.get("code"), str):
        references.check_code(document, step["code"], (*trail, "code"), problems)
    names = (list(step.get("inputs") or {}), list(step.get("outputs") or {}))
    references.check_expressions(document, step.get("command"), (*trail, "command"), *names, problems)


def _check_parallel(document: Document, step: dict[str, Any], trail: Trail, problems: list[Problem]) -> None:
    for key in ("task", "input_data"):
        if not step.get(key):
            message = f"parallel step '{trail[-1]}' needs a component, or {key}."
            problems.append(Problem(document.key_place(trail), message))
    names = (list(step.get("inputs") or {}), list(step.get("outputs") or {}))
    _check_task(document, step, trail, *names, problems)


def _check_task(
    document: Document,
    given: dict[str, Any],
    trail: Trail,
    inputs: list[str],
    outputs: list[str],
    problems: list[Problem],
) -> None:
    """The task of a parallel step or component."""
    task = given.get("task")
    references.check_expressions(
        document, given.get("input_data"), (*trail, "input_data"), inputs, outputs, problems
    )
    if not isinstance(task, dict):
        return
    at = (*trail, "task")
    if isinstance(task.get("code"), str):
        references.check_code(document, task["code"], (*at, "code"), problems)
    _check_environment(document, task.get("environment"), (*at, "environment"), problems)
    for key in ("program_arguments", "append_row_to"):
        references.check_expressions(document, task.get(key), (*at, key), inputs, outputs, problems)


def _check_trial(document: Document, step: dict[str, Any], trail: Trail, problems: list[Problem]) -> None:
    """A trial that is written out; one in a file is looked at as a component."""
    trial = step.get("trial")
    if not isinstance(trial, dict):
        return
    at = (*trail, "trial")
    if isinstance(trial.get("code"), str):
        references.check_code(document, trial["code"], (*at, "code"), problems)
    _check_environment(document, trial.get("environment"), (*at, "environment"), problems)


def _check_environment(document: Document, given: Any, trail: Trail, problems: list[Problem]) -> None:
    if isinstance(given, str):
        references.check_environment(document, given, trail, problems)
    elif isinstance(given, dict):
        check_environment_mapping(document, given, trail, problems)


def check_component_of(
    document: Document, step: dict[str, Any], trail: Trail, problems: list[Problem], depth: int
) -> None:
    """A component in a file, or written out in the step (`trail` () : in a sweep job)."""
    key = "trial" if step.get("type") == "sweep" else "component"
    given = step.get(key)
    at = (*trail, key)
    if key == "trial" and isinstance(given, dict):
        return
    if isinstance(given, dict):
        named = {"name": trail[-1], **given}
        step["component"] = check(COMPONENT, document, named, at, problems)
        return
    if not isinstance(given, str) or not references.is_local(given) or _is_name(document, given):
        return
    before = len(problems)
    references.check_path(document, given, at, problems, "file")
    if len(problems) > before:
        return
    if depth >= MOST_DEEP:
        problems.append(
            Problem(document.place(at), f"components lie more than {MOST_DEEP} deep in each other.")
        )
        return
    inner = read_file(references.local_path(document, given), given)
    data = check(COMPONENT, inner, inner.data, (), problems)
    if isinstance(data, dict) and isinstance(inner.data, dict):
        check_component(inner, data, problems, depth + 1)


def _is_name(document: Document, text: str) -> bool:
    """`NAME:VERSION` without azureml: is a component of the workspace, unless there is such a file."""
    bare = re.fullmatch(r"[A-Za-z0-9][\w.\-]*(:[\w.\-]+|@\w+)", text) is not None
    return bare and not references.local_path(document, text).exists()


def _check_bindings(
    document: Document,
    step: dict[str, Any],
    trail: Trail,
    steps: list[str],
    inputs: list[str],
    problems: list[Problem],
) -> None:
    for at, text in _texts(step, trail):
        for match in _ANY.finditer(text):
            found, own = _STEP.fullmatch(match[0]), _INPUT.fullmatch(match[0])
            if found and found[1] not in steps:
                hint = did_you_mean(found[1], steps) or f" There are: {', '.join(steps)}."
                message = f"{match[0]}: there is no step '{found[1]}'.{hint}"
            elif own and own[1] not in inputs:
                hint = did_you_mean(own[1], inputs) or f" There are: {', '.join(inputs) or 'none'}."
                message = f"{match[0]}: the pipeline has no input '{own[1]}'.{hint}"
            else:
                continue
            problems.append(Problem(document.place_in(at, match[0]), message))


def _texts(step: dict[str, Any], trail: Trail) -> list[tuple[Trail, str]]:
    found: list[tuple[Trail, str]] = []
    for name, value in (step.get("inputs") or {}).items():
        at: Trail = (*trail, "inputs", name)
        if isinstance(value, dict):
            found += [
                ((*at, key), str(value[key])) for key in ("path", "value") if value.get(key) is not None
            ]
        elif value is not None:
            found.append((at, str(value)))
    for key in ("condition", "body", "true_block", "false_block", "items"):
        value = step.get(key)
        words = value if isinstance(value, list) else [value]
        found += [((*trail, key), word) for word in words if isinstance(word, str)]
    return found
