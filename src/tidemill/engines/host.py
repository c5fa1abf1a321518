"""What an engine has done on its host with the rights of whoever runs the agents: by itself, where it has
them, or by the home's privileged helper."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tidemill.agent import main as agent_main
from tidemill.agent.journal import Replay
from tidemill.domain.launch import DEFAULT_PATH
from tidemill.engines.base import EngineError, Unreachable
from tidemill.helper.nodes import Nodes, NotMade
from tidemill.sandbox import processes

READY_TIMEOUT_S = 20.0


class Host(Protocol):
    """Blocking but for `open`; node ids are valid ones. `own_files`: what jobs write is this process's own to
    it, whoever they are."""

    home_id: str
    own_files: bool

    def names(self) -> list[str]: ...
    def config(self, node_id: str) -> dict[str, Any] | None: ...
    def lives(self, node_id: str) -> bool: ...
    def journal(self, node_id: str) -> Replay: ...
    async def open(self, order: Mapping[str, Any]) -> None:
        """Makes the node and starts its agent. Returns once that is ready; raises EngineError."""
        ...

    def connect(self, node_id: str) -> socket.socket:
        """A connection to its agent. Raises Unreachable."""
        ...

    def show(self, node_id: str) -> None:
        """Makes what attempts left on a node that may be closed readable here. Raises OSError."""
        ...

    def resized(self, node_id: str, size: dict[str, int]) -> None: ...
    def end_agent(self, node_id: str) -> None: ...
    def end_rest(self, node_id: str, hard: bool) -> bool: ...
    def remove(self, node_id: str) -> None: ...
    def prune(self, node_id: str) -> None: ...
    def trim(self, node_id: str) -> None: ...
    def sweep(self, known: Collection[str]) -> list[str]: ...


class DirectHost(Nodes):
    """This process's own rights."""

    own_files = False

    def __init__(
        self, home: Path, binds: Sequence[str], *, python: str = sys.executable, **rules: Any
    ) -> None:
        """`rules`: those of `Nodes`."""
        super().__init__(home, binds, **rules)
        self._python = python

    async def open(self, order: Mapping[str, Any]) -> None:
        await asyncio.to_thread(self.sandbox, order["isolation"])  # the first time, tried for a while
        try:
            node = self.make(dict(order))
        except NotMade as error:
            raise EngineError(str(error)) from None
        problem = await self._start(node.node_id, node.path)
        if problem:
            raise EngineError(f"the node's agent did not start: {problem}")

    async def _start(self, node_id: str, path: Path) -> str:
        """Why it failed, or ""."""
        env = {processes.VARIABLE: self.agent_marker(node_id), "PATH": DEFAULT_PATH}
        argv = (self._python, "-I", "-S", "-X", "utf8", agent_main.__file__, str(path))
        errors = os.open(path / "agent" / "agent.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            starter = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=env,
                cwd="/",
            )
        finally:
            os.close(errors)
        assert starter.stdout is not None
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                # One line, not until the end: the agent may hold a copy of the pipe for as long as it lives.
                said = (await starter.stdout.readline()).decode(errors="replace").strip()
                await starter.wait()
        except TimeoutError:
            return f"no word from it within {READY_TIMEOUT_S:g} s"
        return "" if said == "ready" else said or f"it ended without a word; see {path}/agent/agent.log"

    def connect(self, node_id: str) -> socket.socket:
        return connected(self.dir(node_id).agent)

    def show(self, node_id: str) -> None: ...


def connected(agent_dir: Path) -> socket.socket:
    """To `agent_dir`/sock, however deep it lies (a socket address holds 108 bytes). Raises Unreachable."""
    try:
        directory = os.open(agent_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Unreachable(f"the node's directory cannot be opened: {error}") from None
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.setblocking(False)  # on a Unix socket connecting never waits
        link.connect(f"/proc/self/fd/{directory}/sock")
        return link
    except OSError as error:
        link.close()
        raise Unreachable(f"the node's agent cannot be reached: {error}") from None
    finally:
        os.close(directory)
