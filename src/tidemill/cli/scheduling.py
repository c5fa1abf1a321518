"""From a checked schedule file to the schedule: its job's files are uploaded first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tidemill.cli import submit
from tidemill.cli.errors import CliError
from tidemill.cli.session import Session
from tidemill.cli.urls import segment
from tidemill.cli.yaml import blame, to_arm
from tidemill.cli.yaml.load import Spec
from tidemill.cli.yaml.schedule import ScheduleSpec

API = "2023-06-01-preview"
TRIGGER_API = "2024-01-01-preview"
_JOB = "properties.action.jobDefinition"


def put(session: Session, found: ScheduleSpec, name: str) -> None:
    """What the server refuses is told with its place in the files."""
    spec = found.spec
    with placed(found):
        body: dict[str, Any] = {
            "action": {"actionType": "CreateJob", "jobDefinition": _definition(session, found, name)},
            "trigger": found.trigger,
            "tags": spec.data.get("tags") or {},
            "properties": spec.data.get("properties") or {},
        }
        for key, wire in (("display_name", "displayName"), ("description", "description")):
            if spec.data.get(key):
                body[wire] = spec.data[key]
        write(session, name, {"properties": body})


def write(session: Session, name: str, body: Mapping[str, Any]) -> None:
    session.client.begin("PUT", path_of(session, name), dict(body), {"api-version": API})


def path_of(session: Session, name: str) -> str:
    return f"{session.workspace_id()}/schedules/{segment(name)}"


def _definition(session: Session, found: ScheduleSpec, name: str) -> dict[str, Any]:
    if not found.source:
        assert found.job is not None
        return submit.job_body(session, found.job, name)["properties"]
    source = found.source
    if not source.startswith("/"):
        source = f"{session.workspace_id()}/jobs/{segment(source)}"
    body: dict[str, Any] = {"jobType": "Pipeline", "sourceJobId": source, "experimentName": ""}
    if found.job is None:
        return body
    changes = found.job.data
    inputs = submit.with_types(found.job, changes.get("inputs") or {})
    body["inputs"] = to_arm.job_inputs(inputs, submit.input_uris(session, found.job, inputs))
    for key, wire in (
        ("experiment_name", "experimentName"),
        ("description", "description"),
        ("tags", "tags"),
    ):
        if changes.get(key):
            body[wire] = changes[key]
    if changes.get("compute"):
        body["computeId"] = submit.compute_id(session, changes["compute"])
    return body


@contextmanager
def placed(found: ScheduleSpec) -> Iterator[None]:
    """Of the job: in the job's own file; of the trigger and the rest: in the schedule's."""
    try:
        yield
    except CliError as error:
        target = error.target or ""
        if target.startswith(_JOB):
            error.target = f"properties{target.removeprefix(_JOB)}"
        spec: Spec = found.job if found.job is not None and target.startswith(_JOB) else found.spec
        with blame.placed(spec):
            raise error from None
