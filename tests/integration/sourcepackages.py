"""Packages with no wheel, whose build backend does what a test wants."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "{name}"
version = "1.0"
"""
# A build backend of its own: it does `attack`, and makes a wheel whose data is what the attack found.
BACKEND = """
import json, os, socket, subprocess, sys, time, zipfile
{attack}
def build_wheel(folder, *_, **__):
    found = attack()
    name = "{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as file:
        file.writestr("{name}/__init__.py", "")
        file.writestr("{name}/found.json", json.dumps(found))
        file.writestr("{name}-1.0.dist-info/METADATA",
                      "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
        file.writestr("{name}-1.0.dist-info/WHEEL",
                      "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        file.writestr("{name}-1.0.dist-info/RECORD", "")
    return name
"""


def source(folder: Path, name: str, attack: str) -> None:
    backend = BACKEND.format(name=name, attack=attack)
    with tarfile.open(folder / f"{name}-1.0.tar.gz", "w:gz") as tar:
        for path, text in (("pyproject.toml", PROJECT.format(name=name)), ("backend.py", backend)):
            info = tarfile.TarInfo(f"{name}-1.0/{path}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
