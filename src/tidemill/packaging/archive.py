"""An image layout of one image as an archive for `docker load` and `podman load`.

https://github.com/moby/docker-image-spec/blob/v1.3.1/spec.md#combined-image-json--filesystem-changeset-format:
layers are plain in it, so they are decompressed on their way, once to know how long they are.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tidemill.packaging.oci import BLOBS

_CHUNK = 1 << 20
_GZIP = 31
_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]+")


class Unreadable(ValueError):
    """No layout of ours, or one that is not whole. `str()` says what is wrong."""


def write(layout: Path, name: str, tag: str, target: Path) -> None:
    """`target` appears when it is whole. `name` becomes what Docker allows of it. Raises Unreadable,
    OSError."""
    manifest = _manifest(layout)
    config = manifest["config"]["digest"].removeprefix("sha256:")
    diffs = [diff.removeprefix("sha256:") for diff in _json(_blob(layout, config))["rootfs"]["diff_ids"]]
    layers = [layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]]
    repository = _NOT_IN_NAMES.sub("-", name.lower()).strip("-._") or "package"
    about = [
        {
            "Config": f"{config}.json",
            "RepoTags": [f"{repository}:{tag}"],
            "Layers": [f"{diff}.tar" for diff in diffs],
        }
    ]
    part = target.with_name(target.name + ".part")
    try:
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, f"{config}.json", _blob(layout, config).read_bytes())
            for digest, diff in dict(zip(layers, diffs, strict=True)).items():
                _add_layer(tar, _blob(layout, digest), f"{diff}.tar")
            _add(tar, "manifest.json", json.dumps(about, separators=(",", ":")).encode())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _manifest(layout: Path) -> dict[str, Any]:
    index = _json(layout / "index.json")
    entries = index.get("manifests") or []
    if len(entries) != 1:
        raise Unreadable(f"{layout} holds {len(entries)} images, not one")
    return _json(_blob(layout, entries[0]["digest"].removeprefix("sha256:")))


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path} cannot be read: {error}") from None


def _blob(layout: Path, digest: str) -> Path:
    return layout / BLOBS / digest


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _add_layer(tar: tarfile.TarFile, path: Path, name: str) -> None:
    info = tarfile.TarInfo(name)
    with path.open("rb") as file:
        info.size = sum(map(len, _plain(file)))
        file.seek(0)
        tar.addfile(info, _Pieces(_plain(file)))


def _plain(file: BinaryIO) -> Iterator[bytes]:
    """A layer decompressed, if it is gzip's; piece by piece."""
    first = file.read(2)
    file.seek(0)
    read: Callable[[], bytes] = lambda: file.read(_CHUNK)  # noqa: E731
    if first != b"\x1f\x8b":
        yield from iter(read, b"")
        return
    unpacker = zlib.decompressobj(_GZIP)
    for chunk in iter(read, b""):
        while chunk:
            piece = unpacker.decompress(chunk, _CHUNK)
            if piece:
                yield piece
            chunk = unpacker.unconsumed_tail
            if unpacker.eof:  # another member may follow
                chunk, unpacker = unpacker.unused_data, zlib.decompressobj(_GZIP)
    yield unpacker.flush()


class _Pieces(io.RawIOBase):
    """Pieces as a file that is read once."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._left) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._left += piece
        taken, self._left = (self._left, b"") if size < 0 else (self._left[:size], self._left[size:])
        return taken
