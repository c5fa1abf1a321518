"""What a server that gave root up is shown of folders that are closed to it: its programs, what the
environment it was started with names, and what root said it should see.

Root's word is a flag of `tidemill up`, or config.json where that belongs to root at a start (the server owns
what it wrote itself, and may not show itself anything). Such paths are remembered in helper/seen.json.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tidemill.domain.errors import Conflict
from tidemill.environments import index
from tidemill.sandbox import view
from tidemill.server import home as homes
from tidemill.server.folders import opened

_FILE = "seen.json"


def to_be_seen(home: Path, typed: Sequence[str]) -> list[view.Bind]:
    """`typed`: paths that root names at this start. Everything else in those folders is hidden."""
    package = Path(__file__).resolve().parents[2]
    needed = [Path(sys.prefix), Path(sys.base_prefix), package]
    needed += [Path(file) for file in uv_settings_variable().values()]
    needed += [Path(path) for path in index.settings({**uv_settings_variable(), **os.environ}).files]
    for name, value in os.environ.items():
        if name == "PATH" or name.startswith(("UV_", "SSL_CERT")) or name.endswith("_CA_BUNDLE"):
            needed += [Path(word) for part in value.split(":") for word in part.replace(",", " ").split()]
    needed += [Path(path) for path in _said(home, typed)]
    closed = [path for path in needed if path.is_absolute() and path.exists() and _is_closed(path)]
    return [view.Bind(str(home), writable=True), *(view.Bind(str(path)) for path in closed)]


def uv_settings_variable() -> dict[str, str]:
    """What tells uv of the settings of who starts the server, for a server with another home folder."""
    settings = Path.home() / ".config/uv/uv.toml"
    return {"UV_CONFIG_FILE": str(settings)} if settings.exists() else {}


def _said(home: Path, typed: Sequence[str]) -> list[str]:
    """Remembered, and now."""
    with opened(home, "helper") as folder:
        said: set[str] = set()
        with suppress(FileNotFoundError, ValueError):
            reader = os.open(_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            with os.fdopen(reader) as file:
                said = set(json.load(file))
        now = said | {str(Path(path).expanduser().absolute()) for path in typed} | _configured(home)
        if now != said:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(_FILE, flags, 0o600, dir_fd=folder), "w") as file:
                json.dump(sorted(now), file)
    return sorted(now)


def _configured(home: Path) -> set[str]:
    where = homes.Home(home)
    with suppress(Conflict, FileNotFoundError):
        if where.config.lstat().st_uid == 0:
            config = homes.read_config(where)
            if config is not None:
                return {*config.image_folders, *(p for p in (config.certificate, config.key) if p)}
    return set()


def _is_closed(path: Path) -> bool:
    return any(view.closed_ancestor(str(each)) for each in (path.absolute(), path.resolve()))
