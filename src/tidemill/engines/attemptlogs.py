"""Reading what a job wrote, below a directory that it may have filled with links."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from tidemill.agent.files import read_beneath, size_beneath
from tidemill.engines.base import EngineError


def read(directory: str, path: str, offset: int, limit: int) -> bytes:
    """See `Engine.read_log`; `directory` is the attempt's."""
    with _opened(directory, path) as root:
        return read_beneath(root, path, offset, limit)


def size(directory: str, path: str) -> int:
    with _opened(directory, path) as root:
        return size_beneath(root, path)


@contextlib.contextmanager
def _opened(directory: str, path: str) -> Iterator[int]:
    """A descriptor of the directory; what goes wrong inside becomes an EngineError."""
    attempt = os.path.basename(directory)
    try:
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        node = os.path.basename(os.path.dirname(os.path.dirname(directory)))
        raise EngineError(f"attempt {attempt} has no directory on node {node}: {error.strerror}") from None
    try:
        yield root
    except (OSError, ValueError) as error:
        raise EngineError(f"{path!r} of attempt {attempt} cannot be read: {error}") from None
    finally:
        os.close(root)
