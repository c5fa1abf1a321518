"""From what the server refused, a property of the body or a line of the conda file, to its place in the
user's file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tidemill.cli.arm import snake
from tidemill.cli.errors import CliError
from tidemill.cli.yaml import to_arm
from tidemill.cli.yaml.document import Document, Trail, read_text
from tidemill.cli.yaml.load import Spec

# Keys of the YAML that are called otherwise in ARM.
_KEYS = {
    "compute_id": "compute",
    "environment_id": "environment",
    "code_id": "code",
    "component_id": "component",
    "uri": "path",
    "asset_name": "name",
    "asset_version": "version",
    "distribution_type": "type",
}
# what follows is a name of the user's
_NAMED = ("search_space", "inputs", "outputs", "environment_variables", "tags", "jobs")
_LINE = re.compile(r"(?P<start>^C|c)onda file, line (?P<line>\d+):(?P<column>\d+)")


@contextmanager
def placed(spec: Spec) -> Iterator[None]:
    """A job's refusals name the line and column of its file."""
    try:
        yield
    except CliError as error:
        raise _placed(error, spec) from None


def trail_of(target: str) -> Trail:
    """ "properties.resources.instanceCount" -> ("resources", "instance_count"); () where it is none."""
    head, *rest = target.split(".")
    if head != "properties" or not rest:
        return ()
    return _trail(rest)


def _trail(parts: list[str]) -> Trail:
    found: list[str] = []
    for part in parts:
        named = bool(found) and found[-1] in _NAMED and (len(found) < 2 or found[-2] not in _NAMED)
        found.append(part if named else _key(part))
    return tuple(found)


def _key(part: str) -> str:
    return _KEYS.get(snake(part), snake(part))


def _placed(error: CliError, spec: Spec) -> CliError:
    own = spec.data.get("environment")
    conda = own.get("conda_file") if isinstance(own, dict) else None
    if conda is not None and _LINE.search(error.message):
        return _with(error, _conda_lines(error.message, conda, spec))
    trail = trail_of(error.target or "")
    document = spec.document
    while trail and trail not in document.values and trail not in document.keys:
        trail = trail[:-1]
    if not trail:
        return error
    value = document.data
    for step in trail:
        value = value[step]
    # A data input is its path; of other mappings, the key says more than where the mapping begins.
    if isinstance(value, dict) and "path" in value:
        trail = (*trail, "path")
    elif isinstance(value, dict):
        return _with(error, f"{document.key_place(trail)}: {error.message}")
    return _with(error, f"{document.place(trail)}: {error.message}")


def _with(error: CliError, message: str) -> CliError:
    return CliError(message, error.exit_code, error.code, error.target, error.details)


def _conda_lines(message: str, conda: Any, spec: Spec) -> str:
    """A conda file was sent as it is; a mapping in the job's own file was written anew, with other lines."""
    written = None if isinstance(conda, str) else _places(to_arm.conda_text(conda), spec.document)

    def place(match: re.Match[str]) -> str:
        line, column = int(match["line"]), int(match["column"])
        if isinstance(conda, str):
            return f"{_shown(spec.path(conda))}:{line}:{column}"
        found = (written or {}).get((line, column))
        return found or str(spec.document.key_place(("environment", "conda_file")))

    return _LINE.sub(place, message)


def _places(text: str, document: Document) -> dict[tuple[int, int], str]:
    """Line and column in `text` -> where the same value or key stands in the job's file."""
    made = read_text(text, "", Path())
    at = ("environment", "conda_file")
    found = {(p.line, p.column): str(document.key_place((*at, *trail))) for trail, p in made.keys.items()}
    values = {(p.line, p.column): str(document.place((*at, *trail))) for trail, p in made.values.items()}
    return {**values, **found}


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
