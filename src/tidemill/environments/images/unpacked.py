"""What is known of an unpacked image, and its marker file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

MARKER = "image.json"
ROOT = "rootfs"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class UnpackedImage:
    """`root`: its files, read-only. `digest` is the manifest's. `shell` runs commands ("" = it has none),
    `libc` is "glibc", "musl" or "". `pythons`: (version, path in the image) of the interpreters on its PATH.
    Sizes in bytes (`pulled` as stored, `size` unpacked), `at` in microseconds, `seconds` of pulling and
    unpacking; `programs`: those found in it of the ones that were looked for."""

    digest: str
    root: Path
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    shell: str = ""
    libc: str = ""
    pythons: tuple[tuple[str, str], ...] = ()
    programs: tuple[str, ...] = ()
    layers: int = 0
    pulled: int = 0
    size: int = 0
    at: int = 0
    seconds: float = 0.0

    @property
    def short(self) -> str:
        return self.digest[: len("sha256:") + 12]

    @property
    def path(self) -> str:
        """Its PATH."""
        return dict(self.env).get("PATH") or DEFAULT_PATH


def write_record(folder: Path, image: UnpackedImage) -> None:
    values = {**asdict(image), "root": ROOT}
    (folder / MARKER).write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    os.chmod(folder / MARKER, 0o444)


def read_record(folder: Path) -> UnpackedImage | None:
    """None when there is no marker: the image is not here."""
    path = folder / MARKER
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        return None
    return _read(path, stamp)


@lru_cache(maxsize=256)
def _read(path: Path, stamp: int) -> UnpackedImage:
    values = json.loads(path.read_text("utf-8"))
    pairs = {name: tuple(tuple(pair) for pair in values[name]) for name in ("env", "pythons")}
    lists = {name: tuple(values[name]) for name in ("entrypoint", "cmd", "programs") if name in values}
    return UnpackedImage(**{**values, **pairs, **lists, "root": path.parent / ROOT})
