"""Tools of builds, run by the privileged helper of a server that has no rights (helper/builds.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tidemill.environments import process
from tidemill.environments.shared import LogLine
from tidemill.helper import builds

_END_S = 120.0


class BuildHelper(Protocol):
    def start_build(self, order: Mapping[str, Any]) -> tuple[int, int]: ...
    def end_build(self, place: str, name: str) -> int: ...


async def run(helper: BuildHelper, order: Mapping[str, Any], log: LogLine) -> tuple[dict[str, Any], str]:
    """-> how it ended (`code`, `oom`, `full`) and what it said. Cancelled: every process of it is gone before
    this leaves. Raises OSError, and what the helper raises."""
    heard, link = await asyncio.to_thread(helper.start_build, order)
    with socket.socket(fileno=link) as end:
        end.setblocking(False)
        try:
            lines = await process.listen(heard, log)
            return _told(await _word(end)), "\n".join(lines)
        except BaseException:
            end.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                await asyncio.shield(_word(end))
            raise


def end(helper: BuildHelper, folder: Path) -> None:
    """Nothing of a build runs any more, and its folder is the server's. Blocks; nothing is done for another
    folder. Raises OSError."""
    if not builds.NAME.fullmatch(folder.name) or not folder.exists():
        return
    with socket.socket(fileno=helper.end_build(folder.parent.name, folder.name)) as link:
        link.settimeout(_END_S)
        _told(link.recv(65536))


async def _word(link: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(link, 65536)


def _told(word: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(word) if word else {"failed": "its helper ended"}
    if "failed" in answer:
        raise OSError(f"the build could not be carried out: {answer['failed']}")
    return answer
