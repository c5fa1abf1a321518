"""The image below a package whose environment was built in one: its own layers, or all its files in one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tidemill.app.assets import images
from tidemill.app.services import Services
from tidemill.domain.errors import InvalidRequest, TidemillError
from tidemill.domain.model import Scope
from tidemill.domain.plan import PlannedEnvironment
from tidemill.domain.serving.packaging import KeptLayer
from tidemill.environments.built import BuiltEnvironment
from tidemill.environments.images import lookup, pulling
from tidemill.environments.images.manifest import Manifest, host_architecture
from tidemill.environments.images.reference import PACKAGE, ImageReference, parse_reference
from tidemill.environments.images.unpacked import UnpackedImage
from tidemill.packaging.oci import BLOBS

# Docker's names of what OCI has, too.
_KINDS = {
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
}


@dataclass(frozen=True, slots=True)
class Base:
    """`order`: `packaging.assembling.Base` as JSON; `root`: its files here, where they become one layer."""

    order: dict[str, Any]
    notes: tuple[str, ...]
    root: str = ""


async def base_of(
    s: Services, scope: Scope, planned: PlannedEnvironment, built: BuiltEnvironment | None, folder: Path
) -> Base:
    """Of an environment that is ready; the image's layers are then in `folder`/layout. Raises
    InvalidRequest."""
    image = s.images.find(planned.image_digest)
    if image is None:
        raise InvalidRequest(
            f"Image {planned.image} is not here any more: package again.", "EnvironmentMissing"
        )
    python = _python(s, planned, image, built)
    try:
        layers, config, history = await _own_layers(s, scope, planned, image, folder)
    except (TidemillError, OSError, ValueError) as error:
        said = error.message if isinstance(error, TidemillError) else str(error)
        note = f"The layers of image {planned.image} are not to be had, so its files are one layer: {said}"
        env = [f"{name}={value}" for name, value in image.env]
        return Base(
            {"config": {"Env": env}, "python": python, "root": str(image.root)}, (note,), str(image.root)
        )
    told = {
        "config": config,
        "history": history,
        "layers": [asdict(layer) for layer in layers],
        "python": python,
    }
    return Base(told, ())


def brought_along(s: Services, built: BuiltEnvironment | None) -> str:
    """The interpreter of an environment that its image has not: one that was downloaded for this home; ""
    where the image has it."""
    if built is None or not s.environments.manages(built.base_prefix):
        return ""
    minor = ".".join(built.python_version.split(".")[:2])
    return str(built.base_prefix / "bin" / f"python{minor}")


def _python(
    s: Services, planned: PlannedEnvironment, image: UnpackedImage, built: BuiltEnvironment | None
) -> str:
    """The path of its interpreter in the image, "" where one is brought along."""
    if brought_along(s, built):
        return ""
    if built is not None:  # as it was made among the image's files
        return os.readlink(built.python)
    if not image.pythons:
        raise InvalidRequest(
            f"Image {planned.image} has no Python for the scoring server: use one that has, or give the "
            "environment packages (a conda file), for which one is brought along.",
            "PythonMissing",
            "baseEnvironmentSource.resourceId",
        )
    return image.pythons[0][1]


async def _own_layers(
    s: Services, scope: Scope, planned: PlannedEnvironment, image: UnpackedImage, folder: Path
) -> tuple[list[KeptLayer], dict[str, Any], list[dict[str, Any]]]:
    """Raises TidemillError, OSError, ValueError where they cannot be had."""
    if planned.build is not None:
        raise ValueError("it was built from a Dockerfile, and only its files were kept.")
    reference = parse_reference(planned.image or "")
    if reference.transport == PACKAGE:
        raise ValueError("it is a package itself.")
    reference = s.images.check(reference)
    if not reference.local:
        reference = reference.at(image.digest)
    login = await images.login_to(s, scope, reference)
    manifest = await s.images.look_up(reference, scope.arm_id, login)
    if manifest.digest != image.digest:
        raise ValueError("it is another one by now.")
    blobs = folder / "base" / "blobs" / "sha256"
    if reference.transport == "oci":
        await asyncio.to_thread(_copy, reference, manifest, blobs)
    else:
        await s.images.fetch(reference, manifest, login, folder / "base", (), _unheard)
    return await asyncio.to_thread(_taken, manifest, blobs, folder / "layout" / BLOBS)


def _copy(reference: ImageReference, manifest: Manifest, blobs: Path) -> None:
    """Of a layout of this host; what came is verified."""
    blobs.mkdir(parents=True)
    for blob in {manifest.config.hex, *(layer.hex for layer in manifest.layers)}:
        shutil.copyfile(lookup.blobs_of(reference) / blob, blobs / blob)
    pulling.verified(pulling.Job(reference, manifest, (), _unheard), blobs, host_architecture())


def _taken(
    manifest: Manifest, blobs: Path, target: Path
) -> tuple[list[KeptLayer], dict[str, Any], list[dict[str, Any]]]:
    """The layers moved to their place -> they, and the image's configuration and history."""
    target.mkdir(parents=True)
    raw = json.loads((blobs / manifest.config.hex).read_bytes())
    diffs: list[str] = raw["rootfs"]["diff_ids"]
    layers = [
        KeptLayer(layer.digest, layer.size, diff, _KINDS.get(layer.media_type, layer.media_type), "")
        for layer, diff in zip(manifest.layers, diffs, strict=True)
    ]
    for name in {layer.hex for layer in manifest.layers}:
        os.rename(blobs / name, target / name)
    history: list[dict[str, Any]] = raw.get("history") or []
    if len([one for one in history if not one.get("empty_layer")]) != len(layers):
        history = [{"created_by": "base image"} for _ in layers]
    return layers, raw.get("config") or {}, history


def _unheard(_: str) -> None: ...
