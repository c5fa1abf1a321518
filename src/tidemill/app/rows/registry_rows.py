"""Where registries lie in the store, and how one is found: `Key(Scope(sub, group), "registries", name)`.

A registry's name is its own in the whole subscription, because `azureml://registries/NAME/…` names no group.
"""

from __future__ import annotations

from tidemill.app.errors import absent
from tidemill.domain.errors import Conflict
from tidemill.domain.model import Key, Resource, Scope
from tidemill.store.api import Read, ResourceQuery

TYPE = "registries"
CURATED = "azureml"  # Azure's own registry: its environments come from the catalogue
READ_ASSETS = "Microsoft.MachineLearningServices/registries/assets/read"


def registry_key(scope: Scope) -> Key:
    """`scope`: the registry's."""
    return Key(Scope(scope.subscription, scope.group), TYPE, scope.registry)


def scope_of_row(row: Resource) -> Scope:
    """The registry that a row of registries is."""
    return Scope.of_registry(row.key.scope.subscription, row.key.scope.group, row.key.name)


def find_registry(read: Read, subscription: str, name: str) -> Resource | None:
    """In whatever resource group it is."""
    rows = read.find(ResourceQuery(TYPE))
    return next(
        (
            row
            for row in rows
            if row.key.name.casefold() == name.casefold()
            and row.key.scope.subscription.casefold() == subscription.casefold()
        ),
        None,
    )


def need_registry(read: Read, subscription: str, name: str) -> Resource:
    """Raises NotFound naming those that exist, Conflict for one that is being deleted."""
    row = find_registry(read, subscription, name)
    if row is None:
        names = [row.key.name for row in read.find(ResourceQuery(TYPE))]
        raise absent("Registry", name, names, "this subscription")
    return _alive(row)


def require_registry(read: Read, scope: Scope) -> Resource:
    """The row of a registry's scope. Raises NotFound naming those of its group, Conflict as above."""
    row = read.get(registry_key(scope))
    if row is None:
        group = Scope(scope.subscription, scope.group)
        names = [row.key.name for row in read.find(ResourceQuery(TYPE, group))]
        raise absent("Registry", scope.registry, names, f"resource group {scope.group!r}")
    return _alive(row)


def _alive(row: Resource) -> Resource:
    if row.state == "Deleting":
        raise Conflict(f"Registry {row.key.name!r} is being deleted.", "RegistryDeleting", row.key.name)
    return row
