"""`--set a.b.c=value`: changes to a document before it is checked, with a place of their own."""

from __future__ import annotations

from typing import Any

from tidemill.cli.yaml.document import Document, Place, Problem, Trail, YamlError


def apply(document: Document, settings: tuple[str, ...] | list[str]) -> None:
    """Changes the document. Values are read as YAML (`--set resources.instance_count=2` is a number).
    Raises YamlError naming the setting."""
    problems: list[Problem] = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        place = Place(f"--set {name}", 0, 0, text)
        trail: Trail = tuple(name.split("."))
        if not equals or not all(trail):
            problems.append(Problem(Place(f"--set {setting}", 0, 0), "write it as a.b.c=value."))
            continue
        try:
            value = _value(text)
        except ValueError as error:
            problems.append(Problem(place, f"the value is no YAML: {error}. Quote it."))
            continue
        message = _put(document, trail, value)
        if message:
            problems.append(Problem(place, message))
        else:
            _mark(document, trail, place)
    if problems:
        raise YamlError(problems)


def _value(text: str) -> Any:
    import yaml

    if not text:
        return ""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(getattr(error, "problem", None) or error)) from error
    if isinstance(value, (dict, list)) and text.lstrip()[0] not in "{[":
        return text  # "--set command=echo: hi" is meant as text
    return text if value is None and text not in ("null", "~") else value  # as is '#'


def _put(document: Document, trail: Trail, value: Any) -> str:
    """-> what is wrong, or ""."""
    if document.data is None:
        document.data = {}
    holder: Any = document.data
    for depth, part in enumerate(trail[:-1]):
        step = _step(holder, part)
        if step is None:
            return (
                f"'{'.'.join(map(str, trail[:depth]))}' is {_shape(holder)}; it has nothing called '{part}'."
            )
        if isinstance(holder, dict):
            if holder.get(step) is None:
                holder[step] = {}
            holder = holder[step]
        else:
            holder = holder[int(step)]
    step = _step(holder, trail[-1])
    if step is None:
        around = ".".join(map(str, trail[:-1])) or "the file"
        return f"'{around}' is {_shape(holder)}; it has nothing called '{trail[-1]}'."
    holder[step] = value
    return ""


def _step(holder: Any, part: str | int) -> Any:
    if isinstance(holder, dict):
        return part
    if isinstance(holder, list) and str(part).isdigit() and int(part) < len(holder):
        return int(part)
    return None


def _shape(holder: Any) -> str:
    if isinstance(holder, list):
        return f"a list of {len(holder)}"
    return f"the value {holder!r}"


def _mark(document: Document, trail: Trail, place: Place) -> None:
    """From here on, problems at or under `trail` name the setting instead of a line of the file."""
    trail = tuple(int(part) if isinstance(part, str) and part.isdigit() else part for part in trail)
    for known in [k for k in document.values if k[: len(trail)] == trail]:
        del document.values[known]
    for known in [k for k in document.keys if k[: len(trail)] == trail]:
        del document.keys[known]
    document.values[trail] = place
    document.keys[trail] = place
    for depth in range(1, len(trail)):
        document.values.setdefault(trail[:depth], place)
        document.keys.setdefault(trail[:depth], place)
