"""A container group's body without anything secure: what is stored in the open, and shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

COMPUTED = ("provisioningState", "instanceView")
_HIDDEN = ("secureValue", "password", "storageAccountKey")


def shown_properties(given: Mapping[str, Any]) -> dict[str, Any]:
    """ARM's `properties` as they were given, but for what is secure (values of variables, registries'
    passwords, secret files, storage keys) and for what the server computes."""
    kept = {key: value for key, value in given.items() if key not in COMPUTED and value is not None}
    shown = cast(dict[str, Any], _without(kept))
    for volume in shown.get("volumes") or ():
        if isinstance(volume, dict) and "secret" in volume:
            cast(dict[str, Any], volume)["secret"] = {}
    return shown


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        items = cast(dict[str, Any], value).items()
        return {key: _without(one) for key, one in items if key not in _HIDDEN}
    if isinstance(value, list):
        return [_without(one) for one in cast(list[Any], value)]
    return value
