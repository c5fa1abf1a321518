"""Environments whose root file system is an image: what is known at submit, and what makes them ready."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from tidemill.app.assets import connections, dockerfiles, package_images
from tidemill.app.services import Services
from tidemill.domain.model import Scope
from tidemill.domain.plan import PlannedEnvironment
from tidemill.environments.images import inside, registry
from tidemill.environments.images.reference import PACKAGE, ImageReference, parse_reference
from tidemill.environments.images.unpacked import UnpackedImage
from tidemill.environments.shared import LogLine
from tidemill.environments.spec import EnvironmentSpec


def plan_image(s: Services, scope: Scope, planned: PlannedEnvironment) -> PlannedEnvironment:
    """With `image_digest` and `built` where nothing has to be fetched or built. Its `digest` names what was
    asked for, not what a tag stands for today. Raises InvalidRequest."""
    image = parse_reference(planned.image or "")
    if image.transport != PACKAGE:
        image = s.images.check(image)
    inside.require_sandbox(image.written)
    known = s.images.known(image, scope.arm_id)
    if known is None and image.transport not in ("oci", PACKAGE):
        registry.require(image)
    asked = ["image", scope.arm_id, image.canonical, planned.conda or "", *planned.pip]
    digest = hashlib.sha256("\n".join(asked).encode()).hexdigest()[:40]
    found = replace(planned, digest=digest)
    return found if known is None else _in(s, found, known)


def is_ready(s: Services, planned: PlannedEnvironment) -> bool:
    """Whether a job can be given it as it is."""
    if planned.in_image:
        built = not planned.packages or s.environments.is_built(planned.built)
        return bool(planned.image_digest) and built
    return not planned.digest or s.environments.is_built(planned.digest)


async def prepare(
    s: Services, scope: Scope, planned: PlannedEnvironment, log: LogLine
) -> tuple[PlannedEnvironment, tuple[str, ...]]:
    """Pulls the image, or builds it from its Dockerfile, and builds the packages inside it -> (it, with what
    it has become; notes).

    Raises what `ImageStore.ensure`, `DockerfileBuilder.ensure` and `EnvironmentBuilder.ensure` raise."""
    if planned.build is not None:
        made = await dockerfiles.prepare(
            s, scope, planned, planned.build, lambda image: login_to(s, scope, image), log
        )
        return _in(s, planned, made.image), made.notes
    image = parse_reference(planned.image or "")
    if image.transport == PACKAGE:
        pulled = await package_images.ensure(s, scope, image, log)
    else:
        login = await login_to(s, scope, image)
        pulled = await s.images.ensure(image, scope.arm_id, login, log)
    there = _in(s, planned, pulled.image)
    if not planned.packages:
        return there, pulled.notes
    built = await s.environments.ensure(spec_of(planned), log, pulled.image)
    return replace(there, built=built.digest), (*pulled.notes, *built.notes)


async def login_to(s: Services, scope: Scope, image: ImageReference) -> registry.Login | None:
    """What the workspace's connections say for the image's registry."""
    if image.local:
        return None
    found = await connections.registry_credentials(s, scope, image.registry)
    return found and registry.Login(found.connection, found.username, found.password)


def spec_of(planned: PlannedEnvironment) -> EnvironmentSpec:
    """What it was planned from."""
    return EnvironmentSpec(
        conda=planned.conda,
        pip=planned.pip,
        image=planned.image,
        name=planned.name,
        version=planned.version,
        variables=dict(planned.variables),
        notes=planned.notes,
        in_image=planned.in_image,
        host_instead=planned.host_instead,
    )


def _in(s: Services, planned: PlannedEnvironment, image: UnpackedImage) -> PlannedEnvironment:
    built = s.environments.key(spec_of(planned), image) if planned.packages else ""
    return replace(planned, image_digest=image.digest, built=built)
