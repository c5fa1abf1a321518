"""The scoring server's side environment: packages that make it answer faster (uvloop, orjson), built once for
each version of Python. They stand at the end of an instance's path, so that the user's own win. The server
does without them where they cannot be had."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from tidemill.app.services import Services
from tidemill.domain.errors import TidemillError
from tidemill.domain.plan import PlannedEnvironment
from tidemill.environments.shared import LogLine
from tidemill.environments.spec import EnvironmentSpec

log = logging.getLogger("tidemill.environments")

PACKAGES = ("uvloop>=0.17,<1", "orjson>=3.6,<4")
PATIENCE_S = 30.0
_given_up: set[str] = set()  # digests of those that could not be built, in this process


def folder_of(s: Services, planned: PlannedEnvironment) -> Path | None:
    """Where the packages lie, for an instance with this environment; None where it has to do without."""
    spec = _spec(s, planned)
    built = s.environments.find(s.environments.key(spec)) if spec is not None else None
    if built is None:
        return None
    version = ".".join(built.python_version.split(".")[:2])
    return built.path / "lib" / f"python{version}" / "site-packages"


def is_settled(s: Services, planned: PlannedEnvironment) -> bool:
    """Whether there is nothing to wait for: it is there, cannot be had, or there is none for this one."""
    if planned.digest and not planned.in_image and not s.environments.is_built(planned.digest):
        return False
    spec = _spec(s, planned)
    digest = s.environments.key(spec) if spec is not None else ""
    return not digest or digest in _given_up or s.environments.is_built(digest)


async def settle(s: Services, planned: PlannedEnvironment, say: LogLine) -> str:
    """Builds it, once the environment itself is there. -> why an instance has to do without, "" where it has
    not."""
    spec = _spec(s, planned)
    if spec is None:
        return ""
    digest = s.environments.key(spec)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await s.environments.ensure(spec, say)
    except (TidemillError, TimeoutError) as error:
        _given_up.add(digest)
        why = error.message if isinstance(error, TidemillError) else f"not built within {PATIENCE_S:g} s"
        log.warning("the scoring server does without uvloop and orjson: %s", why)
        return why
    return ""


def _spec(s: Services, planned: PlannedEnvironment) -> EnvironmentSpec | None:
    """Of the same version of Python. None: an image's Python may be of another platform, and one that is not
    built yet is not known."""
    if planned.in_image:
        return None
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if planned.digest:
        built = s.environments.find(planned.digest)
        if built is None or not built.python_version:
            return None
        version = ".".join(built.python_version.split(".")[:2])
    packages = ", ".join(f'"{package}"' for package in PACKAGES)
    conda = f"name: scoring\ndependencies:\n  - python={version}\n  - pip\n  - pip: [{packages}]\n"
    return EnvironmentSpec(conda=conda, name=f"scoring-{version}")
