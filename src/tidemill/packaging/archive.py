"""An image layout of one image as an archive for `docker load` and `podman load`.

https://github.com/moby/docker-image-spec/blob/v1.3.1/spec.md#combined-image-json--filesystem-changeset-format:
layers are plain in it, so they are decompressed on their way, once to know how long they are.
"""

from __future__ import annotations

import hashlib
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
_ZSTD = b"\x28\xb5\x2f\xfd"
_BETWEEN = re.compile(r"[^a-z0-9]+")
_SEPARATOR = re.compile(r"\.|__?|-+")  # that Docker allows between letters and digits of a name


class Unreadable(ValueError):
    """No layout of ours, one that is not whole, or one that no archive can be made of. `str()` says what is
    wrong."""


def write(layout: Path, name: str, tag: str, target: Path) -> None:
    """`target` appears when it is whole. `name` becomes what Docker allows of it. Raises Unreadable,
    OSError."""
    manifest = _manifest(layout)
    config = manifest["config"]["digest"].removeprefix("sha256:")
    diffs = [diff.removeprefix("sha256:") for diff in _json(_blob(layout, config))["rootfs"]["diff_ids"]]
    layers = [layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]]
    about = [
        {
            "Config": f"{config}.json",
            "RepoTags": [f"{_repository(name)}:{tag}"],
            "Layers": [f"{diff}.tar" for diff in diffs],
        }
    ]
    part = target.with_name(target.name + ".part")
    try:
        with tarfile.TarFile(part, "w", format=tarfile.PAX_FORMAT, copybufsize=_CHUNK) as tar:
            _add(tar, f"{config}.json", _blob(layout, config).read_bytes())
            for digest, diff in dict(zip(layers, diffs, strict=True)).items():
                _add_layer(tar, _blob(layout, digest), diff)
            _add(tar, "manifest.json", json.dumps(about, separators=(",", ":")).encode())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _repository(name: str) -> str:
    kept = _BETWEEN.sub(lambda part: part[0] if _SEPARATOR.fullmatch(part[0]) else "-", name.lower())
    return kept.strip("-._") or "package"


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


def _add_layer(tar: tarfile.TarFile, path: Path, diff: str) -> None:
    info, digest = tarfile.TarInfo(f"{diff}.tar"), hashlib.sha256()
    with path.open("rb") as file:
        for piece in _plain(file):
            digest.update(piece)
            info.size += len(piece)
        if digest.hexdigest() != diff:
            raise Unreadable(f"layer {path.name} is not what the image says that it is: fetch it again")
        file.seek(0)
        tar.addfile(info, _Pieces(_plain(file)))


def _plain(file: BinaryIO) -> Iterator[bytes]:
    """A layer decompressed, if it is gzip's; piece by piece."""
    first = file.read(4)
    file.seek(0)
    read: Callable[[], bytes] = lambda: file.read(_CHUNK)  # noqa: E731
    if first == _ZSTD:
        raise Unreadable(
            f"layer {os.path.basename(file.name)} of its image is packed with zstd, and in an archive layers "
            "are plain: fetch it as an image layout (oci)"
        )
    if first[:2] != b"\x1f\x8b":
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
