"""The steps between a manifest and a root file system: fetch the blobs, verify them, unpack the layers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.domain.errors import TidemillError
from tidemill.domain.units import human_bytes
from tidemill.environments.images import manifest as manifests
from tidemill.environments.images.lookup import bad, read_small
from tidemill.environments.images.manifest import Broken, Descriptor, ImageConfig, Manifest
from tidemill.environments.images.reference import ImageReference
from tidemill.environments.images.registry import Login, Skopeo, out_of_space
from tidemill.environments.images.unpacked import DEFAULT_PATH
from tidemill.environments.process import run
from tidemill.environments.shared import LogLine

PROGRESS_S = 1.0
CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """One image on its way. `held`: descriptors of its lock, which its processes keep open."""

    image: ImageReference
    manifest: Manifest
    held: Sequence[int]
    say: LogLine


async def fetch(job: Job, skopeo: Skopeo, login: Login | None, blobs: Path) -> None:
    """Into the folder `blobs`. Raises what `Skopeo.copy` raises."""
    exact = job.image if job.image.local else job.image.at(job.manifest.digest)
    layers = {layer.hex for layer in job.manifest.layers}
    total = human_bytes(job.manifest.size)
    job.say(f"Pulling {exact.canonical}: {len(layers)} layers, {total}.")
    copying = asyncio.ensure_future(skopeo.copy(exact, login, blobs, job.held))
    try:
        while not (await asyncio.wait([copying], timeout=PROGRESS_S))[0]:
            done, size = await asyncio.to_thread(_arrived, blobs, layers)
            job.say(f"Pulling: {done} of {len(layers)} layers, {human_bytes(size)} of {total}.")
    finally:
        if not copying.done():
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)
    await copying


def _arrived(blobs: Path, layers: set[str]) -> tuple[int, int]:
    """-> (whole layers, bytes)."""
    done = size = 0
    with suppress(OSError):
        for entry in os.scandir(blobs):
            size += entry.stat().st_size
            done += entry.name in layers
    return done, size


def verified(job: Job, blobs: Path, architecture: str) -> ImageConfig:
    """The image's configuration, after every blob was found to be what the manifest says."""
    manifest = job.manifest
    try:
        kept = blobs / "manifest.json"
        if job.image.transport != "oci" and manifests.digest_of(read_small(kept)) != manifest.digest:
            raise Broken("another manifest came with its layers")
        raw = read_small(blobs / manifest.config.hex)
        _same(manifest.config, manifests.digest_of(raw), len(raw))
        for layer in manifest.layers:
            _same(layer, *_digest_of_file(blobs / layer.hex))
        return manifests.read_config(raw, architecture)
    except FileNotFoundError as error:
        raise bad(job.image, f"blob {os.path.basename(error.filename)[:12]} is missing") from None
    except Broken as error:
        raise bad(job.image, error) from None


def _same(wanted: Descriptor, digest: str, size: int) -> None:
    if (digest, size) != (wanted.digest, wanted.size):
        raise Broken(f"blob {wanted.digest[:19]}… of {wanted.size} bytes is {digest[:19]}… of {size} bytes")


def _digest_of_file(path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return f"sha256:{digest.hexdigest()}", size


async def unpack(
    job: Job,
    config: ImageConfig,
    blobs: Path,
    root: Path,
    *,
    most_bytes: int,
    folders: Sequence[str],
    files: Mapping[str, str],
    programs: Sequence[str],
) -> dict[str, Any]:
    """What `unpack.py` found. Raises InvalidRequest for an image that is refused, OutOfSpace."""
    order = {
        "root": str(root),
        "layers": [str(blobs / layer.hex) for layer in job.manifest.layers],
        "most_bytes": most_bytes,
        "folders": list(folders),
        "files": dict(files),
        "path": dict(config.env).get("PATH") or DEFAULT_PATH,
        "programs": list(programs),
    }
    word: dict[str, Any] = {}

    def hear(line: str) -> None:
        with suppress(ValueError):
            word.update(json.loads(line))
            if "layer" in word:
                number, size = word.pop("layer"), word.pop("bytes")
                job.say(
                    f"Unpacking: layer {number} of {len(job.manifest.layers)}, {human_bytes(size)} so far."
                )

    argv = [sys.executable, "-I", "-m", "tidemill.environments.images.unpack"]
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
    code, output = await run(
        argv, env=env, cwd=root, log=hear, held=job.held, stdin=json.dumps(order).encode()
    )
    if "refused" in word:
        raise bad(job.image, word["refused"])
    if "full" in word:
        raise out_of_space(job.image)
    if "done" not in word:
        last = output.strip().splitlines()[-1:] or [f"exit code {code}"]
        raise TidemillError(
            f"Image {job.image.written!r} could not be unpacked: {last[0]}", "ImageUnpackFailed", status=500
        )
    return word["done"]
