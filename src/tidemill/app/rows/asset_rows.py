"""Where assets lie in the store: a container row per name, a version row below it, and how they are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.app.errors import absent
from tidemill.app.rows.codec import decode_object
from tidemill.domain.errors import NotFound
from tidemill.domain.model import Key, Resource, Scope
from tidemill.store.api import Read, ResourceQuery


@dataclass(frozen=True, slots=True)
class AssetKind:
    """`type`: ARM's segment and the row type of containers. `fixed`: the properties that make a version what
    it is; `located`: the property (dotted) that says where its bytes are, "" if it has none."""

    type: str
    label: str
    fixed: tuple[str, ...]
    located: str = ""

    @property
    def versions(self) -> str:
        return f"{self.type}/versions"


CODES = AssetKind("codes", "Code", ("codeUri",), "codeUri")
ENVIRONMENTS = AssetKind("environments", "Environment", ("condaFile", "image", "build"), "build.contextUri")
DATA = AssetKind("data", "Data asset", ("dataUri", "dataType", "referencedUris"), "dataUri")
MODELS = AssetKind("models", "Model", ("modelUri", "modelType"), "modelUri")
COMPONENTS = AssetKind("components", "Component", ("componentSpec",))
DEFAULT_VERSION = "azureml_default"  # how the SDK asks for a component's default version
ANONYMOUS = "CliV2AnonymousEnvironment"  # as clients name those written in a job: never asked for by name
ANONYMOUS_COMPONENT = "azureml_anonymous"
KINDS = {kind.type: kind for kind in (CODES, ENVIRONMENTS, DATA, MODELS, COMPONENTS)}


def container_key(scope: Scope, kind: AssetKind, name: str) -> Key:
    return Key(scope, kind.type, name)


def version_key(scope: Scope, kind: AssetKind, name: str, version: str) -> Key:
    return Key(scope, kind.versions, version, parent=name)


def version_id(scope: Scope, kind: AssetKind, name: str, version: str) -> str:
    """ARM's id of a version."""
    return f"{scope.arm_id}/{kind.type}/{name}/versions/{version}"


def find_container(read: Read, scope: Scope, kind: AssetKind, name: str) -> Resource:
    """Raises NotFound with the names that exist."""
    row = read.get(container_key(scope, kind, name))
    if row is None:
        raise no_such_name(read, scope, kind, name)
    return row


def find_version(
    read: Read, scope: Scope, kind: AssetKind, name: str, version: str, label: str = ""
) -> Resource:
    """By version, or the newest when `label` is "latest". Raises NotFound with what exists."""
    if kind is COMPONENTS and version == DEFAULT_VERSION:
        version, label = "", "default"
    if not version and label:
        return _by_label(read, scope, kind, name, label)
    row = read.get(version_key(scope, kind, name, version))
    if row is not None:
        return row
    versions = read.find(ResourceQuery(kind.versions, scope, parent=name))
    if not versions:
        raise no_such_name(read, scope, kind, name)
    raise absent(f"{kind.label} {name!r} version", version, (v.key.name for v in versions), _place(scope))


def newest_version(read: Read, scope: Scope, kind: AssetKind, name: str) -> Resource | None:
    """The most recently created one that is not archived, else the most recently created one."""
    for archived in (False, None):
        found = read.find(ResourceQuery(kind.versions, scope, parent=name, archived=archived, limit=1))
        if found:
            return found[0]
    return None


def _by_label(read: Read, scope: Scope, kind: AssetKind, name: str, label: str) -> Resource:
    """`latest` (of components, `default` too), or an alias that was given to a version."""
    known = ["latest", "default"] if kind is COMPONENTS else ["latest"]
    if label.casefold() not in known:
        return _by_alias(read, scope, kind, name, label, known)
    newest = newest_version(read, scope, kind, name)
    if newest is None:
        raise no_such_name(read, scope, kind, name)
    return newest


def _by_alias(
    read: Read, scope: Scope, kind: AssetKind, name: str, alias: str, labels: Sequence[str]
) -> Resource:
    aliases = aliases_of(find_container(read, scope, kind, name))
    row = read.get(version_key(scope, kind, name, aliases[alias])) if alias in aliases else None
    if row is None:
        raise absent(f"{kind.label} {name!r} label", alias, [*labels, *aliases], _place(scope))
    return row


def aliases_of(container: Resource) -> dict[str, str]:
    """Alias -> version."""
    return {str(k): str(v) for k, v in decode_object(container.status).get("aliases", {}).items()}


def no_such_name(
    read: Read, scope: Scope, kind: AssetKind, name: str, besides: Sequence[str] = ()
) -> NotFound:
    """Names what exists; `besides`: what else could have been meant."""
    rows = read.find(ResourceQuery(kind.type, scope, limit=1000))
    names = [row.key.name for row in rows if row.key.name not in (ANONYMOUS, ANONYMOUS_COMPONENT)]
    return absent(kind.label, name, [*names, *besides], _place(scope))


def _place(scope: Scope) -> str:
    return scope.words
