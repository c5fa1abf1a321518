"""Azure's v2 YAML of a workspace connection (https://learn.microsoft.com/azure/machine-learning/reference-yaml-connection-container-registry
and its neighbours), and the ARM body that it becomes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidemill.cli.yaml.document import Problem
from tidemill.cli.yaml.kinds import Choice, Either, Field, Flag, Free, Literal, Record, Tagged, Text
from tidemill.cli.yaml.kinds import Mapping as MappingOf
from tidemill.cli.yaml.load import Spec, finished, read_checked

CATEGORIES = {
    "container_registry": "ContainerRegistry",
    "git": "Git",
    "python_feed": "PythonFeed",
    "s3": "S3",
    "snowflake": "Snowflake",
    "azure_sql_db": "AzureSqlDb",
    "azure_synapse_analytics": "AzureSynapseAnalytics",
    "azure_my_sql_db": "AzureMySqlDb",
    "azure_postgres_db": "AzurePostgresDb",
    "azure_blob": "AzureBlob",
    "azure_data_lake_gen2": "ADLSGen2",
    "api_key": "ApiKey",
    "custom": "CustomKeys",
}
_TEXT = Field(Text(), required=True)
_TYPE = {"type": Field(Text())}
# of a credential: its fields, by the names of the YAML, and what ARM calls it
_CREDENTIALS: dict[str, tuple[str, dict[str, str]]] = {
    "pat": ("PAT", {"pat": "pat"}),
    "username_password": ("UsernamePassword", {"username": "username", "password": "password"}),
    "access_key": (
        "AccessKey",
        {"access_key_id": "accessKeyId", "secret_access_key": "secretAccessKey"},
    ),
    "sas": ("SAS", {"sas_token": "sas"}),
    "account_key": ("AccountKey", {"account_key": "key"}),
    "api_key": ("ApiKey", {"key": "key"}),
    "service_principal": (
        "ServicePrincipal",
        {"client_id": "clientId", "client_secret": "clientSecret", "tenant_id": "tenantId"},
    ),
    "managed_identity": ("ManagedIdentity", {"client_id": "clientId", "resource_id": "resourceId"}),
    "none": ("None", {}),
}
_OPTIONAL = ("managed_identity",)
CONNECTION = Record(
    "a connection",
    {
        "name": _TEXT,
        "type": Field(Choice(tuple(CATEGORIES)), required=True),
        "target": _TEXT,
        "credentials": Field(
            Either(
                record=Tagged(
                    "credentials",
                    "type",
                    {
                        kind: Record(
                            "credentials",
                            {
                                **_TYPE,
                                **{name: Field(Text(), required=kind not in _OPTIONAL) for name in fields},
                            },
                        )
                        for kind, (_, fields) in _CREDENTIALS.items()
                    },
                ),
                nothing=True,
            )
        ),
        "is_shared": Field(Flag()),
        "metadata": Field(MappingOf(Either(scalar=Literal(), nothing=True), "entry")),
        "tags": Field(MappingOf(Either(scalar=Literal(), nothing=True), "tag")),
        "id": Field(Free(), read_only=True),
    },
)


def load_connection(path: Path, shown: str | None = None) -> Spec:
    """Raises YamlError (all problems), CliError for an unreadable file."""
    document, data, problems = read_checked(CONNECTION, path, (), shown)
    if isinstance(data, dict):
        credentials = data.get("credentials") or {}
        if data.get("type") == "custom" and credentials and credentials.get("type") != "api_key":
            place = document.place(("credentials", "type"))
            problems.append(Problem(place, "a custom connection has credentials of type api_key."))
    return finished(data, document, problems)


def connection(spec: Mapping[str, Any]) -> dict[str, Any]:
    """ARM's body."""
    given = spec.get("credentials") or {"type": "none"}
    auth, fields = _CREDENTIALS[given["type"]]
    credentials = {wire: given[name] for name, wire in fields.items() if given.get(name) is not None}
    if spec["type"] == "custom":
        auth, credentials = "CustomKeys", {"keys": {"key": given["key"]}} if given.get("key") else {}
    properties: dict[str, Any] = {
        "category": CATEGORIES[spec["type"]],
        "target": spec["target"],
        "authType": auth,
        "metadata": {key: str(value) for key, value in _metadata(spec).items()},
        **({"credentials": credentials} if credentials else {}),
    }
    if spec.get("is_shared") is not None:
        properties["isSharedToAll"] = spec["is_shared"]
    return {"properties": properties}


def _metadata(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Tags are an older word for it."""
    both = {**(spec.get("tags") or {}), **(spec.get("metadata") or {})}
    return {key: value for key, value in both.items() if value is not None}


def type_of(category: str) -> str:
    """As the YAML spells it."""
    known = {wire: word for word, wire in CATEGORIES.items()}
    return known.get(category) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", category).lower()
