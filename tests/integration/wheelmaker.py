"""Wheels made by hand, for builds without an index."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path


def wheel(
    directory: Path, name: str, version: str, requires: tuple[str, ...] = (), code: str = "", size: int = 0
) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", code or f"version = {version!r}\n")
        if size:
            archive.writestr(f"{name}/data.bin", os.urandom(size))
        lines = [
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}",
            *(f"Requires-Dist: {r}" for r in requires),
        ]
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{name}-say = {name}:say\n")
        archive.writestr(f"{info}/RECORD", "")
