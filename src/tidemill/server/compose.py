"""Composition: which implementation stands behind each port, and which modules bring routes."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from tidemill.app.services import Addresses, Caller, Services, Settings
from tidemill.identity.ca import tls_files
from tidemill.identity.keys import Keys
from tidemill.identity.secrets import SecretBox
from tidemill.identity.storage_keys import StorageKeys
from tidemill.identity.tokens import Principal, TokenIssuer
from tidemill.server.home import Config, Home
from tidemill.server.ports import SystemClock, SystemIds
from tidemill.wire.http import Route

ROUTE_MODULES = (
    "tidemill.wire.arm.operations",
    "tidemill.wire.azure.identity",
    "tidemill.wire.azure.deployments",
    "tidemill.wire.azure.workspaces",
    "tidemill.wire.azure.computes",
    "tidemill.wire.azure.assets",
    "tidemill.wire.azure.datastores",
    "tidemill.wire.azure.jobs",
    "tidemill.wire.azure.history",
    "tidemill.wire.mlflow.routes",
    "tidemill.wire.native.routes",
    "tidemill.portal.routes",
)


@dataclass(frozen=True, slots=True)
class Composed:
    """The services, and the owner of the home as the caller of what is done at a start."""

    services: Services
    owner: Caller


def issuer(home: Home, config: Config, keys: Keys, addresses: Addresses) -> TokenIssuer:
    """The home's token issuer. Tokens for its own addresses are accepted with and without a last slash."""
    import getpass

    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "owner"
    return TokenIssuer(
        signing_pem=keys.signing_pem,
        links_key=keys.links,
        tenant=config.tenant,
        principal=Principal(
            config.owner_oid, config.client_id, name, keys.identity_header, keys.client_secret
        ),
        audiences=(addresses.https, addresses.http, addresses.data),
        now=SystemClock().now,
    )


async def compose(home: Home, config: Config, keys: Keys, addresses: Addresses, incarnation: str) -> Composed:
    """Opens everything a home has. Nothing runs by itself yet."""
    from tidemill.catalog.curated import CuratedCatalog
    from tidemill.catalog.sizes import SizeCatalog
    from tidemill.data.blobstore import BlobStore
    from tidemill.engines.local import LocalEngine
    from tidemill.store.sql import open_store

    clock, ids = SystemClock(), SystemIds()
    store = open_store(config.database or home.db / "tidemill.db")
    curated = CuratedCatalog()
    engine = LocalEngine(home.root, clock=clock, binds=(home.envs, tls_files(home.tls).bundle))
    tokens = issuer(home, config, keys, addresses)
    services = Services(
        settings=Settings(
            home=home.root,
            subscription=config.subscription,
            tenant=config.tenant,
            region=config.region,
            capacity=config.capacity,
            strict_python=config.strict_python,
        ),
        addresses=addresses,
        clock=clock,
        ids=ids,
        store=store,
        tracking=_tracking(home, clock),
        blobs=BlobStore(home.blobs, clock.now),
        sizes=SizeCatalog.load(await engine.capacity()),
        curated=curated,
        environments=_environments(home, curated, clock),
        engine=engine,
        tokens=tokens,
        secrets=SecretBox(keys.master),
        storage_keys=StorageKeys(keys.storage),
        incarnation=incarnation,
    )
    return Composed(services, Caller(config.owner_oid, tokens.principal.name, "owner"))


async def close(services: Services) -> None:
    """Lets go of every file, after everything that uses them has ended."""
    await services.store.close()
    if services.tracking is not None:
        await services.tracking.close()
    services.blobs.close()


def _tracking(home: Home, clock: SystemClock) -> Any:
    if importlib.util.find_spec("tidemill.store.tracking") is None:
        return None
    from tidemill.store.tracking import TrackingStore

    return TrackingStore(home.db / "tracking.db")


def _environments(home: Home, curated: Any, clock: SystemClock) -> Any:
    if importlib.util.find_spec("tidemill.environments.builder") is None:
        return None
    from tidemill.environments.builder import EnvironmentBuilder

    return EnvironmentBuilder(home.envs)


def routes() -> list[Route]:
    """Every route of every dialect."""
    found: list[Route] = []
    for name in ROUTE_MODULES:
        if importlib.util.find_spec(name) is None:
            continue
        found += importlib.import_module(name).routes()
    return found
