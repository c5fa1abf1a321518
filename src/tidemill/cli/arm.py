"""ARM resources in the words of Azure's YAML: flat, snake case, as `az ml … show` prints them."""

from __future__ import annotations

import re
from typing import Any

_RENAMED = {
    "data_type": "type",
    "data_uri": "path",
    "model_type": "type",
    "model_uri": "path",
    "datastore_type": "type",
    "friendly_name": "display_name",
    "ml_flow_tracking_uri": "mlflow_tracking_uri",
}
_USERS = ("tags", "properties", "flavors", "conda_file", "aliases")  # what is inside belongs to the user
_TYPES = {  # as the YAML spells them
    "AzureBlob": "azure_blob",
    "AzureFile": "azure_file",
    "AzureDataLakeGen1": "azure_data_lake_gen1",
    "AzureDataLakeGen2": "azure_data_lake_gen2",
    "OneLake": "one_lake",
}


def entity(resource: dict[str, Any]) -> dict[str, Any]:
    """{"id", "name", "properties": {…}} -> name, version (of versioned assets), then its properties."""
    resource = resource or {}
    found: dict[str, Any] = {"name": resource.get("name")}
    match = re.search(
        r"/(?:environments|data|models|components|codes)/([^/]+)/versions/([^/]+)$", resource.get("id") or ""
    )
    if match:
        found["name"], found["version"] = match[1], match[2]
    for key, value in (resource.get("properties") or {}).items():
        name = snake(key)
        found[_RENAMED.get(name, name)] = value if name in _USERS else _inner(value)
    if isinstance(found.get("type"), str):
        found["type"] = _TYPES.get(found["type"], found["type"])
    for key in ("location", "tags"):
        if resource.get(key):
            found[key] = resource[key]
    found["id"] = resource.get("id")
    created = (resource.get("systemData") or {}).get("createdAt")
    if created:
        found["created_at"] = created
    return found


def _inner(value: Any) -> Any:
    if isinstance(value, dict):
        return {snake(key): _inner(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_inner(item) for item in value]
    return value


def snake(name: str) -> str:
    """ "mlFlowTrackingUri" -> "ml_flow_tracking_uri"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
