"""Which jobs and deployments had an asset: by what they were planned with, not by the words they were given.

So a label counts as the version that it was when the job was submitted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from tidemill.app.assets.asset_usage import references
from tidemill.app.rows import batch_rows
from tidemill.app.rows.asset_rows import COMPONENTS, MODELS, version_id
from tidemill.app.rows.codec import decode_object, job_status
from tidemill.app.rows.endpoint_rows import DEPLOYMENTS, deployment_status
from tidemill.app.times import iso
from tidemill.catalog.curated import PREFIX
from tidemill.data.uris import AssetId, AssetName, RegistryUri, parse_uri
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Resource, Scope
from tidemill.domain.plan import JobPlan, Place, PlannedEnvironment
from tidemill.domain.serving.plan import DeploymentPlan
from tidemill.store.api import Read, ResourceQuery

SEARCHED = 500  # newest jobs that are looked at, steps and trials among them
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Uses:
    """`jobs`: {name, display_name, status, at, how} of the newest SHOWN of those looked at; `further`: how
    many more there are. `deployments`: {kind: "online" | "batch", endpoint, deployment, state}."""

    jobs: tuple[dict[str, Any], ...]
    further: int
    deployments: tuple[dict[str, Any], ...]


def of_data(read: Read, scope: Scope, place: Place | None) -> Uses:
    """Jobs that read what lies there."""
    return _uses(read, scope, lambda row, plan: _reads(plan, place), lambda plan: False, lambda row: False)


def of_model(read: Read, scope: Scope, place: Place | None, name: str, version: str) -> Uses:
    """Jobs that read what lies there, deployments that serve the model."""

    def serves(plan: DeploymentPlan) -> bool:
        model = plan.model
        return (
            model is not None and (model.name, model.version) == (name, version) and _same(model.place, place)
        )

    mine = version_id(scope, MODELS, name, version).casefold()
    return _uses(
        read,
        scope,
        lambda row, plan: _reads(plan, place),
        serves,
        lambda row: batch_rows.status_of(row).model.casefold() == mine,
    )


def of_environment(read: Read, scope: Scope, name: str, version: str) -> Uses:
    """`version` "": any, as of a curated one, of which there is one list for all versions."""

    def same(planned: PlannedEnvironment) -> bool:
        return planned.name.casefold() in names and version in ("", planned.version)

    short = name.casefold().removeprefix(PREFIX.casefold())
    names = {name.casefold()} if version else {name.casefold(), short}
    return _uses(
        read,
        scope,
        lambda row, plan: "runs in it" if same(plan.environment) else "",
        lambda plan: bool(plan.spec.environment_id) and same(plan.environment),
        lambda row: _names(batch_rows.status_of(row).environment, names, version),
    )


def of_component(read: Read, scope: Scope, name: str, version: str) -> Uses:
    """Pipelines and sweeps whose definition names this version, and batch deployments that run it."""

    def how(row: Resource, plan: JobPlan) -> str:
        named = (one for one in references(decode_object(row.spec)) if one.kind is COMPONENTS)
        return "has it" if any((one.name, one.version) == (name, version) for one in named) else ""

    def takes(row: Resource) -> bool:
        """Whatever label it named; a registry's of that name is another."""
        mine = batch_rows.status_of(row).component_label == f"{name}:{version}"
        return mine and not batch_rows.spec_of(row).component.lower().startswith("azureml://registries/")

    return _uses(read, scope, how, lambda plan: False, takes)


def _reads(plan: JobPlan, place: Place | None) -> str:
    inputs = [item.name for item in plan.inputs if _same(item.place, place)]
    return f"input {', '.join(inputs)}" if inputs else ""


def _same(one: Place | None, other: Place | None) -> bool:
    if one is None or other is None:
        return False
    return replace(one, path=one.path.rstrip("/")) == replace(other, path=other.path.rstrip("/"))


def _uses(
    read: Read,
    scope: Scope,
    how: Callable[[Resource, JobPlan], str],
    serves: Callable[[DeploymentPlan], bool],
    takes: Callable[[Resource], bool],
) -> Uses:
    jobs = list(_jobs(read, scope, how))
    online = read.find(ResourceQuery(DEPLOYMENTS, scope, ascending=True))
    batch = read.find(ResourceQuery(batch_rows.DEPLOYMENTS, scope, ascending=True))
    deployments = (
        *(_deployment("online", row) for row in online if serves(deployment_status(row).plan)),
        *(_deployment("batch", row) for row in batch if takes(row)),
    )
    return Uses(tuple(jobs[:SHOWN]), len(jobs[SHOWN:]), deployments)


def _deployment(kind: str, row: Resource) -> dict[str, Any]:
    return {"kind": kind, "endpoint": row.key.parent, "deployment": row.key.name, "state": row.state}


def _names(given: str, names: Collection[str], version: str) -> bool:
    """Whether a reference to an environment means one of these. A label is taken for none."""
    try:
        uri = parse_uri(given)
    except InvalidRequest:
        return False
    if not isinstance(uri, AssetName | AssetId | RegistryUri):
        return False
    return uri.name.casefold() in names and version in ("", uri.version)


def _jobs(read: Read, scope: Scope, how: Callable[[Resource, JobPlan], str]) -> Iterator[dict[str, Any]]:
    for row in read.find(ResourceQuery("jobs", scope, limit=SEARCHED)):
        plan = job_status(row.status).plan
        said = "" if plan.service is not None else how(row, plan)  # a deployment's instances are its own
        if said:
            name = str(decode_object(row.spec).get("displayName") or row.key.name)
            at = iso(row.created_at)
            yield {"name": row.key.name, "display_name": name, "status": row.state, "at": at, "how": said}
