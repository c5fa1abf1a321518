"""One task of a node: what its agent knows of it from its start until it is forgotten."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tidemill.agent.probe import Probe
    from tidemill.agent.restarts import Restarts
    from tidemill.sandbox.cgroups import MemoryMeter


class Task:
    """One task as the agent sees it. What a start sets is in `begin`: of a service it may be called again."""

    def __init__(self, attempt: str, rank: int, epoch: int, grace: float = 10.0) -> None:
        self.attempt = attempt
        self.rank = rank
        self.epoch = epoch
        self.log = ""  # its path
        self.cwd = ""
        self.program = ""
        self.grace = grace  # seconds from TERM to KILL
        self.marker = ""
        self.restarts: Restarts | None = None  # of a service; None: it is not started again
        self.spec: dict[str, Any] = {}  # of a service: what it was started with, secrets too
        self.start_at: float | None = None  # of one that waits to be started again
        self.probes: dict[str, Probe] = {}
        self.started = 0.0
        self.events: list[dict[str, Any]] = []
        self.begin()

    def begin(self) -> None:
        """Nothing of a start is known yet."""
        # "running" | "ending" (main process gone, others not yet) | "waiting" (to start again) | "exited"
        self.state = "running"
        self.beside: dict[str, dict[str, Any]] = {}  # services started beside it
        self.pid = 0  # the child we wait for
        self.main = 0  # the task's own process: the same, or below a shepherd
        self.pipe = -1
        self.said = -1  # where the init of its sandbox says how it ended
        self.container = ""  # its name, of one that runc makes
        self.starting = False  # runc is at it: `pid` is runc's, `main` is not known yet
        self.told = ""  # what came through the pipe
        self.group = ""
        self.status: int | None = None
        self.reason = ""
        self.message = ""
        self.timeout: float | None = None
        self.timeout_at: float | None = None
        self.kill_at: float | None = None
        self.look_at: float | None = None
        self.pause = 0.001
        self.meter: MemoryMeter | None = None
        self.oom_before = 0
        self.refused_before = 0  # processes, when it started
        self.parked = False  # all of it stands still
        self.alone = True  # no other task ran beside it: the node's peak is its peak
        self.exit: dict[str, Any] | None = None

    def listen(self) -> None:
        """Reads what its shepherd has written."""
        if self.pipe < 0:
            return
        try:
            while data := os.read(self.pipe, 65536):
                self.told += data.decode(errors="replace")
        except BlockingIOError:
            pass

    def said_by_shepherd(self, word: str, otherwise: int) -> int:
        """The number after a word in what was read."""
        lines = self.told.splitlines()
        return next((int(ln.split()[1]) for ln in lines if ln.startswith(word + " ")), otherwise)
