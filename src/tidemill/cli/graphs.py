"""Pictures of pipelines for the command line: of a job, or of a file that is not submitted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tidemill.cli.errors import USAGE, CliError
from tidemill.domain.pipelines import drawing
from tidemill.domain.pipelines.drawing import Drawn

_BLOCKS = ("true_block", "false_block")
_STEP = re.compile(r"\$\{\{\s*parent\.jobs\.([A-Za-z_]\w*)")


def of_job(detail: Mapping[str, Any]) -> list[Drawn]:
    """Raises CliError for a job that is no pipeline."""
    if not detail.get("steps"):
        raise CliError(
            f"Job {detail.get('name')} is a {detail.get('type')} job; it has no steps.", USAGE, "NoSteps"
        )
    return [
        Drawn(
            step["name"],
            step["kind"],
            step["state"],
            tuple(step["needs"]),
            f"{len(step['jobs'])} times" if len(step["jobs"]) > 1 else "",
        )
        for step in detail["steps"]
    ]


def of_file(file: str) -> list[Drawn]:
    """Raises YamlError, or CliError for a file that is no pipeline."""
    from tidemill.cli.yaml.load import load_job

    steps: dict[str, Any] = load_job(Path(file), (), file).data.get("jobs") or {}
    if not steps:
        raise CliError(f"{file} is no pipeline; it has no jobs.", USAGE, "NoSteps")
    needs = {
        name: _needs({k: v for k, v in step.items() if k not in _BLOCKS}) for name, step in steps.items()
    }
    for name, step in steps.items():
        for gated in _needs([step.get(block) for block in _BLOCKS]):
            needs.get(gated, []).append(name)  # a step of a branch waits for its condition
    return [
        Drawn(name, step.get("type") or "command", "", tuple(dict.fromkeys(needs[name])))
        for name, step in steps.items()
    ]


def _needs(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [name for item in value.values() for name in _needs(item)]
    if isinstance(value, list):
        return [name for item in value for name in _needs(item)]
    return _STEP.findall(value) if isinstance(value, str) else []


def text(steps: Sequence[Drawn]) -> str:
    return drawing.text(steps)


def write_svg(steps: Sequence[Drawn], target: str, title: str) -> None:
    picture = drawing.svg(steps, title)
    if target == "-":
        click.echo(picture)
    else:
        Path(target).write_text(picture, encoding="utf-8")


def as_dicts(steps: Sequence[Drawn]) -> list[dict[str, Any]]:
    return [
        {"name": step.name, "kind": step.kind, "state": step.state, "needs": list(step.needs)}
        for step in steps
    ]
