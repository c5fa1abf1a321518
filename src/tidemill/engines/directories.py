"""What a local engine does with the directories of attempts on its nodes."""

from __future__ import annotations

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path

from tidemill.engines import attemptlogs
from tidemill.engines.base import InvalidTask
from tidemill.engines.host import Host
from tidemill.helper import nodedir


class Directories:
    """A part of an engine; see `engines.base.Engine`. `nodes` is the folder of all its nodes."""

    def __init__(self, nodes: Path, host: Host) -> None:
        self._root = nodes
        self._host: Host = host

    def work_dir(self, node_id: str, attempt_id: str) -> str:
        if "/" in attempt_id or attempt_id.startswith(".") or not attempt_id:
            raise InvalidTask(f"attempt id {attempt_id!r} cannot name a directory")
        return str(self._root / node_id / "work" / attempt_id)

    async def prepare_dir(
        self,
        node_id: str,
        attempt_id: str,
        folders: Sequence[str] = (),
        links: Sequence[tuple[str, str]] = (),
    ) -> str:
        owner = self._owner_on(node_id)
        path = self.work_dir(node_id, attempt_id)
        nodedir.make_folders(path, folders, links, owner)
        return path

    async def settle_dir(self, node_id: str, attempt_id: str) -> None:
        owner = self._owner_on(node_id)
        if owner:
            await asyncio.to_thread(nodedir.hand_over, self.work_dir(node_id, attempt_id), owner)

    async def remove_dir(self, node_id: str, attempt_id: str) -> None:
        path = self.work_dir(node_id, attempt_id)

        def remove() -> None:
            if nodedir.remove_tree(path):
                self._host.trim(node_id)
            if not self._stays(node_id):
                self._host.prune(node_id)

        await asyncio.to_thread(remove)

    async def crowded(self, node_id: str) -> bool:
        with contextlib.suppress(OSError):
            return nodedir.crowded(self._root / node_id / "work")
        return False

    async def read_log(self, node_id: str, attempt_id: str, path: str, offset: int, limit: int) -> bytes:
        return attemptlogs.read(self.work_dir(node_id, attempt_id), path, offset, limit)

    async def log_size(self, node_id: str, attempt_id: str, path: str) -> int:
        return attemptlogs.size(self.work_dir(node_id, attempt_id), path)

    def _unknown_dirs(self, attempt_ids: Collection[str]) -> list[tuple[str, str]]:
        """(node, attempt) of directories that are there although nobody needs them."""
        found = self._root.glob("*/work/[!.]*")
        return [(path.parent.parent.name, path.name) for path in found if path.name not in attempt_ids]

    @abstractmethod
    def _owner_on(self, node_id: str) -> int:
        """Whom the files of jobs there are given to; 0: nobody, they are ours. Raises Unreachable."""

    @abstractmethod
    def _stays(self, node_id: str) -> bool:
        """Whether the node is open, and not about to close."""
