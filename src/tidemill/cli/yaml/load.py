"""A file of one of the schemas -> a checked spec: plain data in YAML's own words, all problems at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tidemill.cli.yaml import overrides, references
from tidemill.cli.yaml.document import Document, Problem, Trail, YamlError, read_file
from tidemill.cli.yaml.kinds import Kind, check
from tidemill.cli.yaml.schemas import (
    COMPUTE,
    DATA,
    DATASTORE,
    ENVIRONMENT,
    JOB,
    LITERAL_TYPES,
    MODEL,
    WORKSPACE,
)


@dataclass(frozen=True, slots=True)
class Spec:
    """`data` has only keys of its schema; `document` knows the places and resolves relative paths."""

    data: dict[str, Any]
    document: Document

    def path(self, text: str) -> Path:
        return references.local_path(self.document, text)


def load_job(path: Path, settings: tuple[str, ...] = (), shown: str | None = None) -> Spec:
    """A job of any kind that is offered. Raises YamlError (all problems), CliError for an unreadable file."""
    return job_in(_read(path, settings, shown))


def job_in(document: Document) -> Spec:
    """The job that a document is. Raises YamlError."""
    from tidemill.cli.yaml.pipeline_load import check_pipeline
    from tidemill.cli.yaml.pipeline_schemas import PIPELINE_JOB
    from tidemill.cli.yaml.sweep_schemas import SWEEP_JOB

    if isinstance(document.data, dict) and "type" not in document.data:
        _name_type(document)
    problems: list[Problem] = []
    job = replace(JOB, variants={**JOB.variants, "sweep": SWEEP_JOB, "pipeline": PIPELINE_JOB})
    data = _check(job, document, problems)
    if isinstance(document.data, dict) and data is not None:
        is_pipeline = str(document.data.get("type")) == "pipeline"
        (check_pipeline if is_pipeline else _check_job)(document, data, problems)
    return finished(data, document, problems)


def load_compute(path: Path, settings: tuple[str, ...] = (), shown: str | None = None) -> Spec:
    document = _read(path, settings, shown)
    problems: list[Problem] = []
    data = _check(COMPUTE, document, problems)
    if data is not None:
        least, most = data.get("min_instances"), data.get("max_instances")
        if isinstance(least, int) and isinstance(most, int) and least > most:
            problems.append(
                Problem(
                    document.place(("min_instances",)),
                    f"min_instances {least} is more than max_instances {most}.",
                )
            )
    return finished(data, document, problems)


def load_environment(path: Path, settings: tuple[str, ...] = (), shown: str | None = None) -> Spec:
    document = _read(path, settings, shown)
    problems: list[Problem] = []
    if isinstance(document.data, dict) and ("dependencies" in document.data or "channels" in document.data):
        key = "dependencies" if "dependencies" in document.data else "channels"
        raise YamlError(
            [
                Problem(
                    document.key_place((key,)),
                    "this is a conda file, not an environment. Create one with: tidemill environment create "
                    f"--name NAME --image IMAGE --conda-file {document.file}",
                )
            ]
        )
    data = _check(ENVIRONMENT, document, problems)
    if data is not None:
        check_environment_mapping(document, data, (), problems)
    return finished(data, document, problems)


def load_data(path: Path, settings: tuple[str, ...] = (), shown: str | None = None) -> Spec:
    return _load_asset(DATA, path, settings, shown)


def load_model(path: Path, settings: tuple[str, ...] = (), shown: str | None = None) -> Spec:
    return _load_asset(MODEL, path, settings, shown)


def load_datastore(path: Path, settings: tuple[str, ...] = (), shown: str | None = None) -> Spec:
    document = _read(path, settings, shown)
    problems: list[Problem] = []
    return finished(_check(DATASTORE, document, problems), document, problems)


def load_workspace(path: Path, settings: tuple[str, ...] = (), shown: str | None = None) -> Spec:
    document = _read(path, settings, shown)
    problems: list[Problem] = []
    return finished(_check(WORKSPACE, document, problems), document, problems)


def from_flags(kind: str, data: dict[str, Any]) -> Spec:
    """The same checks for what came as flags; problems name the flag."""
    from tidemill.cli.yaml.document import Place

    table: dict[str, Kind] = {
        "compute": COMPUTE,
        "environment": ENVIRONMENT,
        "data": DATA,
        "model": MODEL,
        "workspace": WORKSPACE,
    }
    given = {key: value for key, value in data.items() if value is not None}
    document = Document("flags", Path.cwd(), "", given)
    for key, value in given.items():
        place = Place(
            "--" + key.replace("_", "-"), 0, 0, "" if isinstance(value, (dict, list)) else str(value)
        )
        document.values[(key,)] = document.keys[(key,)] = place
    document.values[()] = Place("", 0, 0)
    problems: list[Problem] = []
    checked = check(table[kind], document, given, (), problems)
    if checked is not None and kind == "environment":
        check_environment_mapping(document, checked, (), problems)
    if checked is not None and kind in ("data", "model") and checked.get("path"):
        references.check_data(document, checked["path"], ("path",), problems, checked.get("type", ""))
    return finished(checked, document, problems)


def _load_asset(kind: Kind, path: Path, settings: tuple[str, ...], shown: str | None) -> Spec:
    document = _read(path, settings, shown)
    problems: list[Problem] = []
    data = _check(kind, document, problems)
    if data is not None and data.get("path"):
        references.check_data(document, data["path"], ("path",), problems, data.get("type", ""))
    return finished(data, document, problems)


def _read(path: Path, settings: tuple[str, ...], shown: str | None) -> Document:
    document = read_file(path, shown)
    overrides.apply(document, settings)
    return document


def read_checked(
    kind: Kind, path: Path, settings: tuple[str, ...], shown: str | None
) -> tuple[Document, Any, list[Problem]]:
    """-> the document, its checked data and what is wrong with it so far."""
    document = _read(path, settings, shown)
    problems: list[Problem] = []
    return document, _check(kind, document, problems), problems


def _check(kind: Kind, document: Document, problems: list[Problem]) -> Any:
    if document.data is None:
        problems.append(Problem(document.place(()), "the file is empty."))
        return None
    return check(kind, document, document.data, (), problems)


def finished(data: Any, document: Document, problems: list[Problem]) -> Spec:
    """Raises YamlError with all problems."""
    if problems:
        raise YamlError(problems)
    return Spec(data, document)


def _name_type(document: Document) -> None:
    """A job without `type` is a command job unless its schema or its keys say otherwise. Raises YamlError for
    what is not offered."""
    schema = str(document.data.get("$schema", "")).rsplit("/", 1)[-1].lower()
    kinds = {
        "jobs": "pipeline",
        "trial": "sweep",
        "search_space": "sweep",
        "task": "automl",
        "entry": "spark",
    }
    found = next((kind for key, kind in kinds.items() if key in document.data), "")
    for kind in ("pipeline", "sweep", "spark", "automl", "parallel", "import"):
        if schema.startswith(kind):
            found = kind
    if found in ("pipeline", "sweep"):
        document.data["type"] = found
    elif found:
        message = f"type: {found} is not offered yet in a job. Offered: command, sweep, pipeline."
        raise YamlError([Problem(document.place(()), message)])


def _check_job(document: Document, data: dict[str, Any], problems: list[Problem]) -> None:
    inputs, outputs = data.get("inputs") or {}, data.get("outputs") or {}
    # Of a sweep, what runs is its trial; one that is a component is looked at as such.
    at: Trail = ("trial",) if "trial" in data else ()
    run: dict[str, Any] = (data.get("trial") or {}) if at else data
    if isinstance(run, str):
        from tidemill.cli.yaml.pipeline_load import check_component_of

        check_component_of(document, data, (), problems, 1)
        run = {}
    space = list(data.get("search_space") or {}) if at else None
    if isinstance(run.get("code"), str):
        references.check_code(document, run["code"], (*at, "code"), problems)
    environment = run.get("environment")
    if isinstance(environment, str):
        references.check_environment(document, environment, (*at, "environment"), problems)
    elif isinstance(environment, dict):
        check_environment_mapping(document, environment, (*at, "environment"), problems)
    if isinstance(data.get("compute"), str):
        references.check_compute(document, data["compute"], ("compute",), problems)
    for name, value in inputs.items():
        if isinstance(value, dict):
            check_input(document, value, ("inputs", name), problems)
    for trail, text in [
        ((*at, "command"), run.get("command")),
        *(
            ((*at, "environment_variables", name), value)
            for name, value in (run.get("environment_variables") or {}).items()
        ),
    ]:
        references.check_expressions(document, text, trail, list(inputs), list(outputs), problems, space)
    references.check_unset(document, run.get("command"), (*at, "command"), inputs, problems)


def check_input(document: Document, value: dict[str, Any], trail: Trail, problems: list[Problem]) -> None:
    kind = value.get("type")
    literal = kind in LITERAL_TYPES or "value" in value or ("default" in value and "path" not in value)
    if literal:
        if "path" in value:
            problems.append(
                Problem(
                    document.key_place((*trail, "path")),
                    f"an input of type {kind or 'literal'} has a value, no path.",
                )
            )
        given = value.get("value", value.get("default"))
        if given is None and not value.get("optional"):
            problems.append(
                Problem(
                    document.place(trail), f"input '{trail[-1]}' has no value: give value, or optional: true."
                )
            )
        _check_literal(document, kind, given, trail, value, problems)
    elif value.get("path"):
        references.check_data(document, value["path"], (*trail, "path"), problems, kind or "")
    elif not value.get("optional") and "path" not in value:
        problems.append(
            Problem(document.place(trail), f"input '{trail[-1]}' has no path: give path, or optional: true.")
        )


def _check_literal(
    document: Document, kind: Any, given: Any, trail: Trail, value: dict[str, Any], problems: list[Problem]
) -> None:
    fits = {
        "integer": isinstance(given, int) and not isinstance(given, bool),
        "number": isinstance(given, (int, float)) and not isinstance(given, bool),
        "boolean": isinstance(given, bool),
    }
    if given is not None and not fits.get(str(kind), True):
        at = (*trail, "value") if "value" in value else (*trail, "default")
        problems.append(
            Problem(document.place(at), f"input '{trail[-1]}' is of type {kind}; {given!r} is not.")
        )


def check_environment_mapping(
    document: Document, data: dict[str, Any], trail: Trail, problems: list[Problem]
) -> None:
    image, build, conda = data.get("image"), data.get("build"), data.get("conda_file")
    if image and build:
        problems.append(
            Problem(
                document.key_place((*trail, "build")), "an environment has an image or a build, not both."
            )
        )
    if not image and not build and not conda and "conda_file" not in data:
        problems.append(Problem(document.place(trail), "an environment needs image, conda_file or build."))
    if isinstance(conda, str):
        references.check_path(document, conda, (*trail, "conda_file"), problems, "file")
    if isinstance(build, dict) and isinstance(build.get("path"), str) and references.is_local(build["path"]):
        references.check_path(document, build["path"], (*trail, "build", "path"), problems, "folder")
