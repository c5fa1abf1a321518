"""The home's privileged helper (`helper/`), as the engine of a server without rights has it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tidemill.agent import journal
from tidemill.engines.base import EngineError, Unreachable
from tidemill.engines.host import READY_TIMEOUT_S
from tidemill.helper import nodedir
from tidemill.helper.door import MOST_BYTES

ANSWER_S = 30.0  # it does one thing at a time


class Refused(EngineError):
    """The helper does not do it; `str()` says why."""


class HelperHost:
    """`home` is an absolute path without links. A connection for each request: a helper that was started anew
    is not noticed."""

    own_files = True

    def __init__(self, home: Path) -> None:
        self._folder = home / "helper"
        self.home_id = nodedir.home_id(home)

    def names(self) -> list[str]:
        return self._ask("names")[0]["names"]

    def config(self, node_id: str) -> dict[str, Any] | None:
        return self._ask("config", node=node_id)[0]["config"]

    def lives(self, node_id: str) -> bool:
        return self._ask("lives", node=node_id)[0]["lives"]

    def journal(self, node_id: str) -> journal.Replay:
        _, fds = self._ask("journal", node=node_id)
        data = b""
        for fd in fds:
            with os.fdopen(fd, "rb") as file:
                data = file.read()
        return journal.replay_lines(data)

    async def open(self, order: Mapping[str, Any]) -> None:
        _, fds = await asyncio.to_thread(self._ask, "open", **order)
        reader = asyncio.StreamReader()
        pipe = os.fdopen(fds[0], "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                said = (await reader.readline()).decode(errors="replace").strip()
        except TimeoutError:
            said = f"no word from it within {READY_TIMEOUT_S:g} s"
        finally:
            transport.close()
        if said != "ready":
            said = said or "it ended without a word; see agent.log in its directory"
            raise EngineError(f"the node's agent did not start: {said}")

    def connect(self, node_id: str) -> socket.socket:
        try:
            _, fds = self._ask("connect", node=node_id)
        except Refused as error:
            raise Unreachable(f"the node's agent cannot be reached: {error}") from None
        return socket.socket(fileno=fds[0])

    def show(self, node_id: str) -> None:
        try:
            self._ask("show", node=node_id)
        except Refused as error:
            raise OSError(str(error)) from None

    def resized(self, node_id: str, size: dict[str, int]) -> None:
        self._ask("resized", node=node_id, **size)

    def end_agent(self, node_id: str) -> None:
        self._ask("end_agent", node=node_id)

    def end_rest(self, node_id: str, hard: bool) -> bool:
        return self._ask("end_rest", node=node_id, hard=hard)[0]["gone"]

    def remove(self, node_id: str) -> None:
        self._ask("remove", node=node_id)

    def prune(self, node_id: str) -> None:
        self._ask("prune", node=node_id)

    def trim(self, node_id: str) -> None:
        self._ask("trim", node=node_id)

    def sweep(self, known: Collection[str]) -> list[str]:
        return self._ask("sweep", known=list(known))[0]["left"]

    def start_build(self, order: Mapping[str, Any]) -> tuple[int, int]:
        """A tool in the box of a build -> descriptors: what it says, and the socket that tells its end.
        Raises Refused, Unreachable."""
        _, fds = self._ask("build", **order)
        return fds[0], fds[1]

    def end_build(self, place: str, name: str) -> int:
        """-> the socket that tells the end."""
        return self._ask("end_build", place=place, name=name)[1][0]

    def leave(self) -> None:
        """The server ends: nobody is left to be helped."""
        with contextlib.suppress(EngineError):
            self._ask("leave")

    def _ask(self, verb: str, **fields: Any) -> tuple[dict[str, Any], list[int]]:
        """Raises Refused, or Unreachable where there is no helper."""
        try:
            with self._connected() as link:
                link.send(json.dumps({"verb": verb, **fields}).encode())
                data, fds, _, _ = socket.recv_fds(link, MOST_BYTES, 4, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise Unreachable(
                f"the privileged helper of this home does not answer ({error}): restart the server"
            ) from None
        if not data:
            raise Unreachable(f"the privileged helper of this home ended while it did {verb!r}")
        answer = json.loads(data)
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer, fds

    def _connected(self) -> socket.socket:
        directory = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            link.settimeout(ANSWER_S)
            link.connect(f"/proc/self/fd/{directory}/sock")
            return link
        except OSError:
            link.close()
            raise
        finally:
            os.close(directory)
