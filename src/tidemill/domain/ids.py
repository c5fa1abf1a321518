"""ARM ids: parsing and rules for names."""

from __future__ import annotations

import re

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Key, Scope

PROVIDER = "Microsoft.MachineLearningServices"
# Of types of rows that are not its own.
PROVIDERS = {
    "deployments": "Microsoft.Resources",
    "autoscaleSettings": "Microsoft.Insights",
    "containerGroups": "Microsoft.ContainerInstance",
}

_WORKSPACE_ID = re.compile(
    r"^/?subscriptions/(?P<sub>[^/]+)/resource[gG]roups/(?P<rg>[^/]+)/(?:providers/Microsoft\.MachineLearningServices/)?"
    r"workspaces/(?P<ws>[^/]+)(?P<rest>/.*)?$",
    re.IGNORECASE,
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,254}")


def parse_workspace_id(text: str) -> tuple[Scope, tuple[str, ...]] | None:
    """`/subscriptions/s/resourceGroups/g/providers/…/workspaces/w/computes/c` -> (Scope, ("computes", "c")).
    The short form without `providers/…` (data URIs) is taken too. None if it is no workspace id."""
    match = _WORKSPACE_ID.match(text)
    if match is None:
        return None
    rest = tuple(part for part in (match["rest"] or "").split("/") if part)
    return Scope(match["sub"], match["rg"], match["ws"]), rest


def resource_id(key: Key) -> str:
    """The id of any row: `{scope}/…/{type segments and names, interleaved}`. A version's parent comes first:
    Key(ws, "models/versions", "3", parent="digits") -> `{W}/models/digits/versions/3`."""
    segments = key.type.split("/")
    names = [key.parent, key.name] if len(segments) == 2 else [key.name]
    path = "/".join(f"{segment}/{name}" for segment, name in zip(segments, names, strict=True))
    if key.scope.workspace:
        return f"{key.scope.arm_id}/{path}"
    if key.type == "resourceGroups":
        return f"/subscriptions/{key.scope.subscription}/{path}"
    provider = PROVIDERS.get(key.type, PROVIDER)
    return f"{key.scope.arm_id}/providers/{provider}/{path}"


def check_name(name: str, what: str) -> str:
    """A resource's name. Raises InvalidRequest naming the value and the rule."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{what} name {name!r} is not valid: use 1 to 255 letters, digits, '-', '_' or '.', "
            "starting with a letter or digit.",
            "InvalidName",
            "name",
        )
    return name
