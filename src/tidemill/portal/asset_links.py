"""From what a definition says to the page of the asset it means."""

from __future__ import annotations

from urllib.parse import quote

from tidemill.app.rows.asset_rows import ANONYMOUS_COMPONENT, KINDS
from tidemill.data.uris import AssetId, AssetName, parse_uri
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.jobspec import MODEL_TYPES
from tidemill.domain.plan import PlannedEnvironment
from tidemill.domain.serving.plan import DeploymentPlan


def page(kind: str, name: str, version: str = "") -> str:
    """Below a workspace's pages; `kind` is ARM's segment."""
    return "/".join([kind, *(quote(part, safe="") for part in (name, version) if part)])


def asset_page(text: object, type: str = "") -> str:
    """`azureml:digits:1` of a job's input of that type, or an ARM id -> `data/digits/1`; "" for what is no
    asset of the workspace with a page. A label leads to the newest version."""
    try:
        uri = parse_uri(str(text))
    except InvalidRequest:
        return ""
    if isinstance(uri, AssetName):
        return page("models" if type in MODEL_TYPES else "data", uri.name, uri.version)
    shown = isinstance(uri, AssetId) and uri.kind.lower() in KINDS and uri.kind.lower() != "codes"
    if not shown or not isinstance(uri, AssetId) or uri.name == ANONYMOUS_COMPONENT:
        return ""
    return page(uri.kind.lower(), uri.name, uri.version)


def environment_of(planned: PlannedEnvironment, given: str) -> str:
    """`given`: what the job or deployment named. "" of a registry's, the host's, and what has no name."""
    shared = given.casefold().startswith("azureml://registries/")
    curated = given.casefold().startswith("azureml://registries/azureml/")
    if not given or not planned.name or (shared and not curated):
        return ""
    return page("environments", planned.name, "" if curated else planned.version)


def model_of(plan: DeploymentPlan) -> str:
    """ "" of a model that is no asset, or a registry's."""
    model = plan.model
    if model is None or not model.name or model.place.account != plan.account:
        return ""
    return page("models", model.name, model.version)
