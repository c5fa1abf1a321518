"""Building among an image's files: uv runs in the image, so that what it installs fits the image's Python
and C library. Which images that can be."""

from __future__ import annotations

import shutil
from pathlib import Path

from tidemill.domain.errors import InvalidRequest
from tidemill.environments.images.reference import TARGET
from tidemill.environments.images.unpacked import UnpackedImage
from tidemill.environments.python import Interpreter


def pythons(image: UnpackedImage) -> tuple[Interpreter, ...]:
    """Those on the image's PATH; their paths are the image's."""
    found = ((version.split("."), path) for version, path in image.pythons)
    return tuple(Interpreter((int(parts[0]), int(parts[1])), Path(path)) for parts, path in found)


def check(image: UnpackedImage, name: str) -> None:
    """Raises InvalidRequest where nothing can be built in it."""
    require_sandbox(name)
    if image.libc != "glibc":
        libc = "musl's" if image.libc == "musl" else "no C library that is known"
        raise InvalidRequest(
            f"Image {name} has {libc}, and a conda file needs an image with glibc (Debian, Ubuntu, Red Hat): "
            "uv itself needs it. Use such an image, or put the packages into the image.",
            "ImageWithoutGlibc",
            TARGET,
        )


def require_sandbox(name: str) -> None:
    """Raises InvalidRequest where nothing can run in an image."""
    if shutil.which("bwrap") is None:
        raise InvalidRequest(
            f"Jobs run in image {name} by bubblewrap, which this server's host does not have: install it "
            "(apt install bubblewrap, dnf install bubblewrap), or let the host stand in for images "
            "(tidemill up --images prefer-host).",
            "BubblewrapMissing",
            TARGET,
        )
