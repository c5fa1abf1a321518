"""The built-in roles: Azure's, by Azure's GUIDs, and the one that every job has in its workspace."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

from tidemill.domain.roles import Permission, RoleDefinition

JOB_ROLE = "e5f0a1d4-6c0b-5d53-9d5b-0f8a3f7c2b61"
_WORKSPACE = "Microsoft.MachineLearningServices/workspaces/"

# What Azure's aml_token is for: the job's own run, data and assets. It reads everything in its workspace that
# is no secret; that it writes only to its own run is checked where runs are written.
_JOB = RoleDefinition(
    JOB_ROLE,
    "Tidemill Job",
    (
        Permission(
            actions=(
                _WORKSPACE + "read",
                _WORKSPACE + "*/read",
                *(
                    f"{_WORKSPACE}{kind}/*"
                    for kind in ("experiments", "runs", "metrics", "artifacts", "data", "models", "jobs/runs")
                ),
            ),
            not_actions=("*secret*", "*key*", "*token*", "*credential*"),
        ),
    ),
    "What a running job may do in its workspace: read all that is no secret, write its run, data and models.",
    builtin=True,
)


@lru_cache(maxsize=1)
def builtin_roles() -> Sequence[RoleDefinition]:
    text = resources.files("tidemill.catalog").joinpath("data/roles.toml").read_text()
    return (*(_role(entry) for entry in tomllib.loads(text)["role"]), _JOB)


def _role(entry: dict[str, Any]) -> RoleDefinition:
    names = ("actions", "not_actions", "data_actions", "not_data_actions")
    permission = Permission(*(tuple(entry.get(name, ())) for name in names))
    return RoleDefinition(entry["id"], entry["name"], (permission,), entry["description"], builtin=True)
