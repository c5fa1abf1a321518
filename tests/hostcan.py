"""What this host can do, tried: tests of what it cannot skip with the reason, and fail in CI."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

import pytest

from tidemill.sandbox import disk, network


@functools.cache
def no_network() -> str:
    """Why this host gives no network namespace, or ""."""
    try:
        space, _ = network.make([], own_user=os.geteuid() != 0)
    except network.NotAvailable as error:
        return f"no network namespaces: {error}"
    space.close()
    return ""


@functools.cache
def no_disk() -> str:
    """Why this host mounts no work disk, or ""."""
    if os.geteuid() != 0:
        return "needs root: mounting"
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "target")
        target.mkdir()
        try:
            disk.attach(f"{folder}/image", str(target), 32 << 20)
        except disk.NotAvailable as error:
            return f"no work disks: {error}"
        disk.detach(str(target))
    return ""


def need(problem: str) -> None:
    if problem and os.environ.get("CI") == "true" and not problem.startswith("needs root"):
        pytest.fail(problem)
    if problem:
        pytest.skip(problem)
