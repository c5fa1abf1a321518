"""Ranges of user ids, one for each node of this host, whatever home it belongs to, and one for each home
whose server has a user of its own: claims on disk, as root.

A claim is a symbolic link, so it is made whole or not at all: its name is the number of the range, what it
points to is the directory of the node or the home. One that is gone has no claim: nobody has to give it back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

# systemd's allocation of ids leaves 1879048192..2147483647 unused (systemd.io/UIDS-GIDS), and so do the
# defaults of useradd and of container engines. No id of a range has a name.
FIRST = 0x7000_0000
SIZE = 1 << 16  # as many as an image may use
RANGES = 4094
REGISTRY = "/var/lib/tidemill/uids"


class Full(Exception):
    """Every range is claimed."""


class Range:
    """`first` is the uid and gid of jobs; first..first+count-1 are the node's, for user namespaces; `keeper`,
    which owns the folder that the directories of attempts are made in, and `relay` are the node's, too, and
    never inside one. Of a home, `first` is its server's user and `first` + 1 what that sees keepers as."""

    __slots__ = ("count", "first", "keeper", "relay")

    def __init__(self, number: int) -> None:
        self.first = FIRST + number * SIZE
        self.count = SIZE - 2
        self.keeper = self.first + self.count
        self.relay = self.keeper + 1


def claim(directory: str, registry: str = "") -> Range:
    """The lowest free range, for the node whose (existing) directory that is; the same one when asked again.
    Raises OSError or Full."""
    registry = registry or REGISTRY
    os.makedirs(registry, 0o700, exist_ok=True)
    lock = os.open(registry, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        held = _held(registry)
        for number, owner in held.items():
            if owner == directory:
                return Range(number)
        number = next((n for n in range(RANGES) if n not in held), -1)
        if number < 0:
            raise Full(f"all {RANGES} ranges of user ids of this host are in use")
        os.symlink(directory, f"{registry}/{number}")
        return Range(number)
    finally:
        os.close(lock)


def claimed(directory: str, registry: str = "") -> Range | None:
    """What was claimed for it, if anything."""
    registry = registry or REGISTRY
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(registry):
            with contextlib.suppress(OSError, ValueError):
                if os.readlink(f"{registry}/{name}") == directory:
                    return Range(int(name))
    return None


def _held(registry: str) -> dict[int, str]:
    """Claims whose node is still there; the others are removed."""
    held: dict[int, str] = {}
    for name in os.listdir(registry):
        with contextlib.suppress(OSError, ValueError):
            owner = os.readlink(f"{registry}/{name}")
            if os.path.isdir(owner):
                held[int(name)] = owner
            else:
                os.unlink(f"{registry}/{name}")
    return held
