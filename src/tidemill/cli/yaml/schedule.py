"""A schedule's file -> its trigger as ARM has it, and its job: in the file, in a file beside it, or one that
is there. All that is wrong is named with its place before anything is uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.cli.yaml import blame, overrides, references
from tidemill.cli.yaml.document import Document, Place, Problem, Trail, YamlError, read_file
from tidemill.cli.yaml.kinds import check
from tidemill.cli.yaml.load import Spec, job_in
from tidemill.cli.yaml.schemas import JOB_CHANGES, SCHEDULE
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.triggers import read_trigger

_JOB = "create_job"
_REFUSED = {
    "create_monitor": "data monitoring schedules (create_monitor) are not offered. Offered: create_job.",
    "import_data": "data import schedules (import_data) are not offered. Offered: create_job.",
}


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """`job`: to be uploaded and submitted; else `source` names a job that is there, and `job` has what
    changes of it (of JOB_CHANGES), if anything does."""

    spec: Spec
    trigger: dict[str, Any]
    job: Spec | None
    source: str = ""


def load_schedule(path: Path, settings: tuple[str, ...] = (), shown: str | None = None) -> ScheduleSpec:
    """Raises YamlError (all problems of a file), CliError for an unreadable one."""
    document = read_file(path, shown)
    overrides.apply(document, settings)
    problems: list[Problem] = []
    if isinstance(document.data, dict):
        for key, message in _REFUSED.items():
            if key in document.data:
                raise YamlError([Problem(document.key_place((key,)), message)])
    data = check(SCHEDULE, document, document.data, (), problems)
    trigger: dict[str, Any] = {}
    if data is not None and isinstance(data.get("trigger"), dict) and not problems:
        trigger = trigger_body(data["trigger"])
        _check_trigger(document, trigger, problems)
    if problems or data is None:
        raise YamlError(problems)
    job, source = _job(document, data[_JOB])
    return ScheduleSpec(Spec(data, document), trigger, job, source)


def trigger_body(trigger: Mapping[str, Any]) -> dict[str, Any]:
    """ARM's `trigger`, as the SDK writes it."""
    body: dict[str, Any] = {"triggerType": "Cron" if trigger["type"] == "cron" else "Recurrence"}
    names = {"start_time": "startTime", "end_time": "endTime", "expression": "expression"}
    body |= {wire: trigger[key] for key, wire in names.items() if trigger.get(key)}
    body["timeZone"] = trigger.get("time_zone") or "UTC"
    if trigger["type"] == "recurrence":
        body |= {"frequency": str(trigger["frequency"]).capitalize(), "interval": trigger["interval"]}
        pattern = trigger.get("schedule") or {}
        body["schedule"] = {"hours": _listed(pattern, "hours"), "minutes": _listed(pattern, "minutes")}
        for key, wire in (("week_days", "weekDays"), ("month_days", "monthDays")):
            if pattern.get(key):
                body["schedule"][wire] = _listed(pattern, key)
    return body


def _listed(pattern: Mapping[str, Any], key: str) -> list[Any]:
    value = pattern.get(key)
    return [] if value is None else value if isinstance(value, list) else [value]


def _check_trigger(document: Document, body: dict[str, Any], problems: list[Problem]) -> None:
    """The server's own rules, before anything is sent."""
    try:
        read_trigger(body)
    except InvalidRequest as error:
        trail = blame.trail_of(error.target or "")
        problems.append(Problem(document.place(trail), error.message))


def _job(document: Document, given: Any) -> tuple[Spec | None, str]:
    """-> (the job, the name or id of one that is there)."""
    trail: Trail = (_JOB,)
    if isinstance(given, str):
        if given.startswith("azureml:"):
            return None, _named(document, given, trail)
        return job_in(read_file(_file(document, given, trail))), ""
    base = given.get("job")
    if base is None:
        return job_in(_part(document, trail)), ""
    trail = (_JOB, "job")
    if not isinstance(base, str):
        raise YamlError([Problem(document.place(trail), "job must be a file, or azureml:NAME.")])
    part = _part(document, (_JOB,))
    if base.startswith("azureml:"):
        problems: list[Problem] = []
        changes = check(JOB_CHANGES, part, part.data, (), problems)
        if problems:
            raise YamlError(problems)
        return Spec({k: v for k, v in changes.items() if k != "job"}, part), _named(document, base, trail)
    below = read_file(_file(document, base, trail))
    del part.data["job"]
    return job_in(_over(below, part)), ""


def _named(document: Document, text: str, trail: Trail) -> str:
    name = text.removeprefix("azureml:").strip()
    if not name:
        raise YamlError([Problem(document.place(trail), "write azureml:NAME, the name of a job.")])
    return name


def _file(document: Document, text: str, trail: Trail) -> Path:
    problems: list[Problem] = []
    references.check_path(document, text.removeprefix("file:"), trail, problems, "file")
    if problems:
        raise YamlError(problems)
    return references.local_path(document, text.removeprefix("file:"))


def _part(document: Document, trail: Trail) -> Document:
    """What is at `trail` as a document of its own, whose places are those of the file."""
    data: Any = document.data
    for step in trail:
        data = data[step]
    size = len(trail)

    def below(places: Mapping[Trail, Place]) -> dict[Trail, Place]:
        return {known[size:]: place for known, place in places.items() if known[:size] == trail}

    values, keys = below(document.values), below(document.keys)
    return Document(document.file, document.folder, document.source, dict(data), values, keys)


def _over(base: Document, changes: Document) -> Document:
    """The job of a file with changes from another: mappings are merged, all else is replaced."""
    values, keys = dict(base.values), dict(base.keys)

    def merge(old: Any, new: Any, trail: Trail) -> Any:
        if isinstance(old, dict) and isinstance(new, dict):
            for name, value in new.items():
                at = (*trail, name)
                old[name] = merge(old.get(name), value, at)
                if at in changes.keys:
                    keys[at] = changes.keys[at]
            return old
        for places, others in ((values, changes.values), (keys, changes.keys)):
            for known in [one for one in places if one[: len(trail)] == trail]:
                del places[known]
            places.update({one: place for one, place in others.items() if one[: len(trail)] == trail})
        return new

    data = merge(base.data, changes.data, ())
    return Document(base.file, base.folder, base.source, data, values, keys)
