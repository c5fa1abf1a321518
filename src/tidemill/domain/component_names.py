"""What a component's spec names: environments, code, other components, data and models of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from tidemill.domain.jobspec import MODEL_TYPES

KIND_OF_KEY = {  # ARM's segment, by the key that names an asset
    "environment": "environments",
    "environmentId": "environments",
    "default_environment": "environments",
    "component": "components",
    "componentId": "components",
    "code": "codes",
    "codeId": "codes",
}
_ADDRESSES = ("uri", "path")  # of a step's input
TYPE_KEYS = ("job_input_type", "jobInputType", "type")
_CALLED = ("inputs", "outputs", "jobs")  # what is in them has names of the user's own
_FREE = ("tags", "properties", "environment_variables", "environmentVariables")  # all of it is the user's own


@dataclass(frozen=True, slots=True)
class Named:
    """`kind`: ARM's segment; `text`: as it is written."""

    kind: str
    text: str


def named_in(spec: Mapping[str, Any]) -> list[Named]:
    """Each once, in the order in which they come."""
    found: dict[Named, str] = {}
    _copied(spec, lambda named: found.setdefault(named, named.text))
    return list(found)


def renamed(spec: Mapping[str, Any], to: Mapping[Named, str]) -> dict[str, Any]:
    """The spec with other texts in those places."""
    return cast(dict[str, Any], _copied(spec, lambda named: to.get(named, named.text)))


def _copied(value: Any, text: Callable[[Named], str]) -> Any:
    if isinstance(value, Mapping):
        items = cast(Mapping[str, Any], value)
        found: dict[str, Any] = {}
        for key, item in items.items():
            named = _named(items, key, item)
            if named is not None:
                found[key] = text(named)
            elif key in _CALLED and isinstance(item, Mapping):
                called = cast(Mapping[str, Any], item)
                found[key] = {name: _copied(one, text) for name, one in called.items()}
            else:
                found[key] = item if key in _FREE else _copied(item, text)
        return found
    if isinstance(value, list):
        return [_copied(item, text) for item in cast(list[Any], value)]
    return value


def _named(items: Mapping[str, Any], key: str, item: Any) -> Named | None:
    if not isinstance(item, str) or not item:
        return None
    if key in KIND_OF_KEY:
        return Named(KIND_OF_KEY[key], item)
    if key in _ADDRESSES and item.startswith(("azureml:", "/subscriptions/")):
        said = next((str(items[name]) for name in TYPE_KEYS if name in items), "")
        return Named("models" if said in MODEL_TYPES else "data", item)
    return None
