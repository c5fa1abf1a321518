"""What a compute may be: its body checked and read, or refused with the property and the fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from tidemill.catalog.sizes import SizeCatalog, VmSize
from tidemill.domain.errors import Conflict, InvalidRequest, NotOffered
from tidemill.domain.units import parse_duration

AML_COMPUTE = "AmlCompute"
NOT_OFFERED = (
    "ComputeInstance",
    "VirtualMachine",
    "Kubernetes",
    "AKS",
    "SynapseSpark",
    "HDInsight",
    "Databricks",
    "DataFactory",
    "DataLakeAnalytics",
)
SERVERLESS = "serverless"
RESERVED = ("local", SERVERLESS)
IMPLICIT = "implicitComputes"  # type of rows: app.implicit_computes
MAX_NODES = 1000
DEFAULT_IDLE_S = 120.0  # Azure's: PT2M
SECOND = 1_000_000

# Set by the server: taken out of what a client sends back after a GET.
COMPUTED = (
    "allocationState",
    "allocationStateTransitionTime",
    "currentNodeCount",
    "targetNodeCount",
    "nodeStateCounts",
    "errors",
)
COMPUTED_OUTER = (
    "provisioningState",
    "provisioningErrors",
    "createdOn",
    "modifiedOn",
    "isAttachedCompute",
    "computeLocation",
)

_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9_-]{0,30}[A-Za-z0-9])?")
_SCALE = "properties.properties.scaleSettings"


@dataclass(frozen=True, slots=True)
class Scale:
    """`idle_us`: how long a node may idle before it is closed."""

    minimum: int
    maximum: int
    idle_us: int


def check_compute_name(name: str) -> str:
    if name.casefold() in RESERVED:
        raise InvalidRequest(
            f"Compute name {name!r} is taken by what is built in. Use another.", "InvalidName", "name"
        )
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"Compute name {name!r} is not valid: use 1 to 32 letters, digits, '-' or '_', "
            "starting with a letter and ending with a letter or digit.",
            "InvalidName",
            "name",
        )
    return name


def read_compute(
    name: str, body: Mapping[str, Any], sizes: SizeCatalog
) -> tuple[dict[str, Any], VmSize, Scale]:
    """ARM's body -> (properties to store, its size, its scale). Raises InvalidRequest or NotOffered."""
    outer = dict(object_at(body, "properties"))
    _check_type(name, outer.get("computeType"))
    inner = dict(object_at(outer, "properties", "properties.properties"))
    for field in COMPUTED:
        inner.pop(field, None)
    for field in COMPUTED_OUTER:
        outer.pop(field, None)
    if str(inner.get("osType") or "Linux").casefold() != "linux":
        raise NotOffered(
            f"Compute {name!r}: osType {inner['osType']!r} is not offered. Nodes run Linux.",
            "properties.properties.osType",
        )
    if not inner.get("vmSize"):
        raise InvalidRequest(
            f"Compute {name!r} has no vmSize. "
            "Give one, for example Standard_DS3_v2, or 'host' for this machine.",
            target="properties.properties.vmSize",
        )
    size = sizes.require(str(inner["vmSize"]))
    priority = str(inner.get("vmPriority") or "Dedicated")
    if priority.casefold() not in ("dedicated", "lowpriority"):
        raise InvalidRequest(
            f"vmPriority {priority!r} of compute {name!r} is not known. Use Dedicated or LowPriority.",
            target="properties.properties.vmPriority",
        )
    scale = read_scale(name, object_at(inner, "scaleSettings", _SCALE))
    given = object_at(inner, "scaleSettings", _SCALE)
    inner |= {
        "vmPriority": priority,
        "osType": "Linux",
        "scaleSettings": {
            **given,
            "minNodeCount": scale.minimum,
            "maxNodeCount": scale.maximum,
            "nodeIdleTimeBeforeScaleDown": given.get("nodeIdleTimeBeforeScaleDown") or "PT2M",
        },
    }
    if inner.get("userAccountCredentials"):  # nobody logs in to nodes: the password is not kept
        account = dict(object_at(inner, "userAccountCredentials"))
        account.pop("adminUserPassword", None)
        inner["userAccountCredentials"] = account
    return {**outer, "computeType": AML_COMPUTE, "properties": inner}, size, scale


def read_scale(name: str, settings: Mapping[str, Any]) -> Scale:
    """Raises InvalidRequest for min > max, counts out of range, or a duration that is none."""
    minimum = _count(name, settings.get("minNodeCount"), 0, "minNodeCount")
    maximum = _count(name, settings.get("maxNodeCount"), max(1, minimum), "maxNodeCount")
    if minimum > maximum:
        raise InvalidRequest(
            f"Compute {name!r}: minNodeCount {minimum} is more than maxNodeCount {maximum}. "
            f"Lower the first or raise the second.",
            target=f"{_SCALE}.minNodeCount",
        )
    return Scale(minimum, maximum, round(_idle(name, settings.get("nodeIdleTimeBeforeScaleDown")) * SECOND))


def refuse_change(name: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """What a compute keeps for its life. Raises Conflict."""
    for field in ("vmSize", "vmPriority"):
        old = str(stored["properties"].get(field, ""))
        new = str(wanted["properties"].get(field, ""))
        if old.casefold() != new.casefold():
            raise Conflict(
                f"Compute {name!r} has {field} {old}; it cannot become {new}. "
                "Create another compute, or delete this one first.",
                "ComputePropertyImmutable",
                f"properties.properties.{field}",
            )


def _check_type(name: str, given: Any) -> None:
    kind = str(given or "")
    if kind.casefold() == AML_COMPUTE.casefold():
        return
    offered = {known.casefold(): known for known in NOT_OFFERED}
    if kind.casefold() in offered:
        raise NotOffered(
            f"Compute {name!r} is of type {offered[kind.casefold()]}, which Tidemill does not offer yet. "
            "Create an AmlCompute cluster.",
            "properties.computeType",
        )
    near = difflib.get_close_matches(kind, [AML_COMPUTE, *NOT_OFFERED], 1, 0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InvalidRequest(
        f"computeType {kind!r} of compute {name!r} is not known.{hint} Use AmlCompute.",
        target="properties.computeType",
    )


def _count(name: str, raw: Any, default: int, field: str) -> int:
    if raw is None:
        return default
    if isinstance(raw, bool) or not isinstance(raw, int) or not 0 <= raw <= MAX_NODES:
        raise InvalidRequest(
            f"Compute {name!r}: {field} is {raw!r}; it must be a whole number from 0 to {MAX_NODES}.",
            target=f"{_SCALE}.{field}",
        )
    return raw


def _idle(name: str, raw: Any) -> float:
    if raw is None or raw == "":
        return DEFAULT_IDLE_S
    try:
        return parse_duration(str(raw))
    except ValueError as error:
        raise InvalidRequest(
            f"Compute {name!r}: nodeIdleTimeBeforeScaleDown {raw!r} is not a duration: {error}.",
            target=f"{_SCALE}.nodeIdleTimeBeforeScaleDown",
        ) from error


def object_at(raw: Mapping[str, Any], field: str, where: str = "") -> Mapping[str, Any]:
    """`raw[field]` as an object, {} where it is absent or null. Raises InvalidRequest naming `where`."""
    value = raw.get(field)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        place = where or field
        raise InvalidRequest(f"{place} must be an object, not {type(value).__name__}.", target=place)
    return cast(Mapping[str, Any], value)
