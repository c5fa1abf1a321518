"""What an engine with agents does for those who look inside a task: sessions, services, ports."""

from __future__ import annotations

import socket
from abc import abstractmethod
from collections.abc import Mapping, Sequence

from tidemill.agent import protocol
from tidemill.engines import entered
from tidemill.engines.base import Beside, InvalidTask, TaskKey
from tidemill.engines.entered import Connect, Entered
from tidemill.engines.link import AgentLink


class Visits:
    """A part of an engine; see `engines.base.Engine`."""

    async def enter(
        self, node_id: str, task: TaskKey, argv: Sequence[str], size: tuple[int, int] | None, term: str = ""
    ) -> Entered:
        more = {"tty": size, "term": term}
        return await entered.enter(
            self._open_to_visits(node_id)[0], task.attempt_id, task.rank, list(argv), more
        )

    async def start_beside(
        self, node_id: str, task: TaskKey, name: str, argv: Sequence[str], log_path: str
    ) -> None:
        _, link = self._open_to_visits(node_id)
        fields = {"attempt": task.attempt_id, "rank": task.rank, "argv": list(argv), "log_path": log_path}
        await link.call("start_beside", name=name, **fields)

    async def beside(self, node_id: str, task: TaskKey) -> Mapping[str, Beside]:
        _, link = self._open_to_visits(node_id)
        answer = await link.call("beside", attempt=task.attempt_id, rank=task.rank)
        return {name: Beside(**entry) for name, entry in answer.items()}

    async def dial(self, node_id: str, task: TaskKey, port: int) -> socket.socket:
        return await entered.dial(self._open_to_visits(node_id)[0], task.attempt_id, task.rank, port)

    @abstractmethod
    def _visited(self, node_id: str) -> tuple[int, Connect, AgentLink]:
        """(the version its agent speaks, a way to connect to it, the link there is). Raises Unreachable."""

    def _open_to_visits(self, node_id: str) -> tuple[Connect, AgentLink]:
        version, connect, link = self._visited(node_id)
        if version < protocol.SESSIONS_SINCE:
            raise InvalidTask(f"node {node_id} was opened by an earlier Tidemill, which lets nobody in")
        return connect, link
