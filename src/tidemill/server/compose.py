"""Composition: which implementation stands behind each port, and which modules bring routes."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from tidemill.app import checkpoints, refusal_spool
from tidemill.app.checkpoints import Checkpoints
from tidemill.app.computes.egress import check_line
from tidemill.app.services import Addresses, Caller, Services, Settings
from tidemill.domain.principals import PrincipalKind
from tidemill.domain.serving import parking
from tidemill.identity.ca import tls_files
from tidemill.identity.keys import Keys
from tidemill.identity.secrets import SecretBox
from tidemill.identity.signing import SigningKeys
from tidemill.identity.storage_keys import StorageKeys
from tidemill.identity.tokens import HomeOwner, TokenIssuer
from tidemill.server.home import Config, Home
from tidemill.server.ports import SystemClock, SystemIds
from tidemill.server.privileges import Standing
from tidemill.wire.http import Route

ROUTE_MODULES = (
    "tidemill.wire.arm.operations",
    "tidemill.wire.azure.identity",
    "tidemill.wire.azure.authorization",
    "tidemill.wire.azure.oauth",
    "tidemill.wire.azure.deployments",
    "tidemill.wire.azure.workspaces",
    "tidemill.wire.azure.computes",
    "tidemill.wire.azure.quotas",
    "tidemill.wire.azure.assets",
    "tidemill.wire.azure.registries",
    "tidemill.wire.azure.datastores",
    "tidemill.wire.azure.connections",
    "tidemill.wire.azure.jobs",
    "tidemill.wire.azure.online_endpoints",
    "tidemill.wire.azure.batch_endpoints",
    "tidemill.wire.azure.packages",
    "tidemill.wire.azure.schedules",
    "tidemill.wire.azure.keyvault",
    "tidemill.wire.azure.insights",
    "tidemill.wire.azure.autoscale",
    "tidemill.wire.azure.container_groups",
    "tidemill.wire.azure.history",
    "tidemill.wire.azure.artifacts",
    "tidemill.wire.azure.not_offered",
    "tidemill.wire.mlflow.routes",
    "tidemill.wire.native.routes",
    "tidemill.wire.native.looking",
    "tidemill.wire.native.activity",
    "tidemill.wire.native.access",
    "tidemill.wire.native.fairness",
    "tidemill.wire.native.schedules",
    "tidemill.wire.native.endpoints",
    "tidemill.wire.native.batch_endpoints",
    "tidemill.wire.native.packages",
    "tidemill.wire.native.containers",
    "tidemill.wire.native.secrets",
    "tidemill.wire.native.credentials",
    "tidemill.wire.native.keys",
    "tidemill.wire.native.validation",
    "tidemill.wire.native.housekeeping",
    "tidemill.wire.native.notifications",
    "tidemill.portal.routes",
)


@dataclass(frozen=True, slots=True)
class Composed:
    """The services, and the owner of the home as the caller of what is done at a start."""

    services: Services
    owner: Caller


def issuer(home: Home, config: Config, keys: Keys, addresses: Addresses) -> TokenIssuer:
    """The home's token issuer; it accepts tokens for this server's own addresses."""
    import getpass

    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "owner"
    owner = HomeOwner(config.owner_oid, config.client_id, name, keys.identity_header, keys.client_secret)
    return TokenIssuer(
        signing=SigningKeys(keys.directory),
        links=keys.links,
        tenant=config.tenant,
        owner=owner,
        audiences=(addresses.https, addresses.http, addresses.data),
        now=SystemClock().now,
    )


async def compose(
    home: Home, config: Config, keys: Keys, addresses: Addresses, standing: Standing, incarnation: str
) -> Composed:
    """Opens everything a home has. Nothing runs by itself yet."""
    from tidemill.app.access_directory import AccessDirectory
    from tidemill.app.session_directory import SessionDirectory
    from tidemill.catalog.curated import CuratedCatalog
    from tidemill.catalog.sizes import SizeCatalog
    from tidemill.data.blobstore import BlobStore
    from tidemill.engines.helped import HelperHost
    from tidemill.engines.local import LocalEngine
    from tidemill.environments import python
    from tidemill.environments.box import Confinement
    from tidemill.environments.builder import EnvironmentBuilder
    from tidemill.environments.dockerfiles.builder import DockerfileBuilder
    from tidemill.environments.images.store import ImagePolicy, ImageStore
    from tidemill.store.sql import open_store
    from tidemill.store.tracking import TrackingStore

    clock, ids = SystemClock(), SystemIds()
    store = open_store(config.database or home.db / "tidemill.db")
    helper = HelperHost(home.root.resolve()) if standing.helped else None
    engine = LocalEngine(
        home.root,
        clock=clock,
        binds=(home.envs, home.images, tls_files(home.tls).bundle, Path(sys.base_prefix)),
        services=addresses.ports,
        isolation=config.isolation,
        host=helper,
    )
    confinement = Confinement(unconfined=config.unconfined_builds, egress=config.build_egress, helper=helper)
    images = ImageStore(
        home.images,
        clock.now,
        ImagePolicy(
            tuple(config.image_folders),
            tuple(config.insecure_registries),
            tuple(config.image_registries),
            config.image_max_gib << 30,
        ),
        confinement=confinement,
    )
    tokens = issuer(home, config, keys, addresses)
    services = Services(
        settings=Settings(
            home=home.root,
            subscription=config.subscription,
            tenant=config.tenant,
            region=config.region,
            ca_bundle=tls_files(home.tls).bundle,
            capacity=config.capacity,
            images=config.images,
            egress=check_line(config.egress, "config.json: egress", "egress"),
            require_isolation=config.require_isolation,
            parked_memory=parking.bound(config.parked_mib, (await engine.capacity()).total.memory),
            why_root=standing.why_root if standing.helped or standing.why_root else None,
            strict_python=config.strict_python,
            cancel_grace_s=config.cancel_grace_s,
            close_grace_s=config.close_grace_s,
            listening=config.listening,
        ),
        addresses=addresses,
        clock=clock,
        ids=ids,
        store=store,
        access=AccessDirectory(store),
        sessions=SessionDirectory(store, clock.now),
        tracking=TrackingStore(home.db / "tracking.db"),
        blobs=BlobStore(home.blobs, clock.now),
        sizes=SizeCatalog.load(await engine.capacity()),
        curated=CuratedCatalog(),
        environments=EnvironmentBuilder(
            home.envs,
            clock.now,
            strict_python=config.strict_python,
            confinement=confinement,
            rank=python.rank_for_other_users if standing.helped else None,
        ),
        images=images,
        dockerfiles=DockerfileBuilder(home.images, images, confinement),
        engine=engine,
        tokens=tokens,
        secrets=SecretBox(keys.master),
        storage_keys=StorageKeys(keys.storage),
        incarnation=incarnation,
    )
    store.on_commit(services.live.on_commit)
    services.activity.start(
        store,
        Checkpoints(home.db / checkpoints.NAME, tokens.signing, clock),
        home.db / refusal_spool.NAME,
    )
    return Composed(services, Caller(config.owner_oid, tokens.owner.name, PrincipalKind.USER.value))


async def close(services: Services) -> None:
    """Lets go of every file, after everything that uses them has ended."""
    await services.activity.stop()
    await services.store.close()
    await services.tracking.close()
    services.blobs.close()


def routes() -> list[Route]:
    """Every route of every dialect."""
    found: list[Route] = []
    for name in ROUTE_MODULES:
        found += importlib.import_module(name).routes()
    return found
