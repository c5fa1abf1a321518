"""The folders of a home for root, where the server that writes to them is another user: by no link of its."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def opened(home: Path, *names: str) -> Iterator[int]:
    """A descriptor of a folder of the home, by no link but root's."""
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            follow = 0 if info.st_uid == 0 else os.O_NOFOLLOW
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)
