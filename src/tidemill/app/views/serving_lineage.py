"""Between jobs and what answers with the models that they made."""

from __future__ import annotations

from tidemill.app.rows.asset_rows import MODELS, version_key
from tidemill.app.rows.codec import decode_object
from tidemill.app.rows.endpoint_rows import DEPLOYMENTS, deployment_status
from tidemill.domain.model import Key, Resource, Scope
from tidemill.domain.serving.plan import DeploymentPlan
from tidemill.store.api import Read, ResourceQuery


def made_by(read: Read, scope: Scope, plan: DeploymentPlan) -> str | None:
    """The job that made a deployment's model, if one of this workspace did and is still there."""
    model = plan.model
    if model is None or not model.name or model.place.account != plan.account:  # a registry's is elsewhere
        return None
    version = read.get(version_key(scope, MODELS, model.name, model.version))
    job = None if version is None else decode_object(version.spec).get("jobName")
    return str(job) if job and read.get(Key(scope, "jobs", str(job))) is not None else None


def served_from(read: Read, job: Resource) -> list[dict[str, str]]:
    """{endpoint, deployment, model} of each deployment of the workspace, oldest first."""
    found: list[dict[str, str]] = []
    for row in read.find(ResourceQuery(DEPLOYMENTS, job.key.scope, ascending=True)):
        plan = deployment_status(row).plan
        if made_by(read, job.key.scope, plan) == job.key.name and plan.model is not None:
            known = f"{plan.model.name}:{plan.model.version}"
            found.append({"endpoint": row.key.parent, "deployment": row.key.name, "model": known})
    return found
