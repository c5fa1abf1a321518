"""A workspace's storage: its account, what a datastore stands for, addresses that follow the data process."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tidemill.app.errors import absent
from tidemill.app.rows.codec import decode_object
from tidemill.app.rows.registry_rows import require_registry
from tidemill.app.services import Addresses
from tidemill.app.workspaces.workspaces import account_of, require_workspace
from tidemill.data.bloburls import ENDPOINT
from tidemill.domain.errors import NotOffered
from tidemill.domain.model import Key, Scope
from tidemill.store.api import Read, ResourceQuery

DATASTORES = "datastores"
BLOB_STORE = "workspaceblobstore"
ARTIFACT_STORE = "workspaceartifactstore"

# Addresses of ours that were stored while the data process listened somewhere else.
_OURS = re.compile(rb"https://(?:localhost|127\.0\.0\.1)(?::\d+)?/(?=[a-z0-9]+\.blob\.core\.windows\.net/)")
_OURS_WITH_ACCOUNT = re.compile(_OURS.pattern.replace(rb"(?=", rb"(?:"))


@dataclass(frozen=True, slots=True)
class Container:
    account: str
    name: str


def account_for(read: Read, scope: Scope) -> str:
    """The storage account of a workspace or a registry. Raises NotFound where there is none."""
    return account_of(require_registry(read, scope) if scope.registry else require_workspace(read, scope))


def bare_account(account_name: str) -> str:
    """`localhost:8445/tm01` (what clients are shown) and `tm01` -> "tm01"."""
    return account_name.rsplit("/", 1)[-1]


def datastore_container(read: Read, scope: Scope, account: str, datastore: str) -> Container:
    """Raises NotFound naming the datastores that exist, NotOffered for storage that is not Tidemill's."""
    row = read.get(Key(scope, DATASTORES, datastore))
    if row is None:
        names = [found.key.name for found in read.find(ResourceQuery(DATASTORES, scope))]
        raise absent("Datastore", datastore, names, scope.words)
    spec = decode_object(row.spec)
    theirs = bare_account(str(spec.get("accountName", "")))
    if spec.get("datastoreType") != "AzureBlob" or theirs != account:
        raise NotOffered(
            f"Datastore {datastore!r} ({spec.get('datastoreType')}, account {theirs!r}) is not in this "
            "workspace's own storage, and Tidemill does not reach other storage yet. "
            f"Copy the data to {BLOB_STORE}.",
            datastore,
        )
    return Container(account, str(spec["containerName"]))


def without_account(addresses: Addresses, properties: bytes) -> bytes:
    """Stored JSON with `https://HOST/CONTAINER/PATH` for our blob addresses: what the SDK reads as a
    container and a path in a registry's model."""
    return _OURS_WITH_ACCOUNT.sub(f"{addresses.data}/".encode(), properties)


def rebase(addresses: Addresses, properties: bytes) -> bytes:
    """Stored JSON with our blob addresses moved to where the data process listens now."""
    if ENDPOINT.encode() not in properties:
        return properties
    return _OURS.sub(f"{addresses.data}/".encode(), properties)
