"""From a reference to the manifest for this host, each step checked against the digest that named it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from tidemill.domain.errors import InvalidRequest
from tidemill.environments.images import manifest as manifests
from tidemill.environments.images.manifest import Broken, Descriptor, Manifest
from tidemill.environments.images.reference import TARGET, ImageReference
from tidemill.environments.images.registry import Login, Skopeo


def bad(image: ImageReference, why: Exception | str) -> InvalidRequest:
    return InvalidRequest(f"Image {image.written!r} cannot be used: {why}.", "InvalidImage", TARGET)


async def look_up(skopeo: Skopeo, image: ImageReference, login: Login | None, architecture: str) -> Manifest:
    """Raises InvalidRequest, OutOfSpace, Unreachable."""
    try:
        if image.transport == "oci":
            return await asyncio.to_thread(_in_layout, image, architecture)
        raw = await skopeo.manifest(image, login)
        if image.digest:
            _check(raw, image.digest)
        found = manifests.read_manifest(raw, architecture)
        if isinstance(found, Manifest):
            return found
        if image.local:
            raise Broken(f"its index is not read out of an archive: unpack that and write oci:{image.path}")
        return _only(await skopeo.manifest(image.at(found.digest), login), found, architecture)
    except Broken as error:
        raise bad(image, error) from None


def _in_layout(image: ImageReference, architecture: str) -> Manifest:
    layout = Path(image.path)
    try:
        index = read_small(layout / "index.json")
        entry = manifests.in_layout(index, image.tag, architecture)
        raw = read_small(blobs_of(image) / entry.hex)
        _check(raw, entry.digest)
        found = manifests.read_manifest(raw, architecture)
        if isinstance(found, Manifest):
            return found
        return _only(read_small(blobs_of(image) / found.hex), found, architecture)
    except OSError as error:
        raise Broken(f"it is no OCI layout ({error.filename}: {error.strerror})") from None


def write_layout(layout: Path, manifest: Manifest, tag: str) -> None:
    """Makes a layout of a folder whose blobs skopeo fetched, its manifest among them."""
    blobs = layout / "blobs" / "sha256"
    raw = read_small(blobs / "manifest.json")
    os.rename(blobs / "manifest.json", blobs / manifest.digest.removeprefix("sha256:"))
    kind = json.loads(raw).get("mediaType") or manifests.MANIFESTS[0]
    entry = {"mediaType": kind, "digest": manifest.digest, "size": len(raw)}
    entry["annotations"] = {manifests.REF_NAME: tag}
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}', "ascii")
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}), "ascii")


def blobs_of(layout: ImageReference) -> Path:
    return Path(layout.path) / "blobs" / "sha256"


def read_small(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(manifests.MOST_BYTES + 1)


def _only(raw: bytes, wanted: Descriptor, architecture: str) -> Manifest:
    _check(raw, wanted.digest)
    found = manifests.read_manifest(raw, architecture)
    if isinstance(found, Descriptor):
        raise Broken("its index names another index")
    return found


def _check(raw: bytes, digest: str) -> None:
    found = manifests.digest_of(raw)
    if found != digest:
        raise Broken(f"its manifest is not {digest[:19]}… but {found[:19]}…")
