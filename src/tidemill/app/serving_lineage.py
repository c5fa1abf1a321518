"""From a job to what answers with the models that it made."""

from __future__ import annotations

from tidemill.app.asset_rows import MODELS, version_key
from tidemill.app.codec import decode_object
from tidemill.app.endpoint_rows import DEPLOYMENTS, deployment_status
from tidemill.domain.model import Resource
from tidemill.store.api import Read, ResourceQuery


def served_from(read: Read, job: Resource) -> list[dict[str, str]]:
    """{endpoint, deployment, model} of each deployment of the workspace, oldest first."""
    found: list[dict[str, str]] = []
    for row in read.find(ResourceQuery(DEPLOYMENTS, job.key.scope, ascending=True)):
        model = deployment_status(row).plan.model
        if model is None or not model.name:
            continue
        version = read.get(version_key(job.key.scope, MODELS, model.name, model.version))
        if version is not None and decode_object(version.spec).get("jobName") == job.key.name:
            known = f"{model.name}:{model.version}"
            found.append({"endpoint": row.key.parent, "deployment": row.key.name, "model": known})
    return found
