"""The data process as control sees it: adopted when it outlived a killed server, else started; started
again on the same port when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tidemill.domain.errors import TidemillError
from tidemill.server.data_process import STATE, is_held, mark_of, read_state
from tidemill.server.home import Config, Home

MODULE = "tidemill.server.data_process"
READY_S = 15.0
STOP_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
_log = logging.getLogger("tidemill.data")


class DataProcess:
    """One data process. `on_change(pid)` is called after each restart."""

    def __init__(self, home: Home, port: int, on_change: Callable[[int], None]) -> None:
        self._home = home
        self._on_change = on_change
        self._watch: asyncio.Task[None] | None = None
        self.port = port
        self.pid = 0

    def start(self) -> None:
        """Spawns it; `ready` waits until it listens."""
        self.pid = spawn(self._home, self.port)

    async def ready(self) -> None:
        """Returns once it serves. Raises TidemillError when it ends, or after READY_S."""
        until = time.monotonic() + READY_S
        while (read_state(self._home.root / STATE) or {}).get("pid") != self.pid:
            if not _alive(self.pid) or time.monotonic() > until:
                raise TidemillError(
                    f"The data process did not start. Its log has the reason: {self._home.logs / 'data.log'}",
                    "DataProcessFailed",
                    status=500,
                )
            await asyncio.sleep(0.005)

    def supervise(self) -> None:
        self._watch = asyncio.create_task(self._supervise(), name="data process")

    async def _supervise(self) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            started = time.monotonic()
            await wait_exit(self.pid)
            _log.warning("the data process (pid %d) ended; it is started again", self.pid)
            pause = _FIRST_PAUSE_S if time.monotonic() - started > 10 else min(pause * 2, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause)
            try:
                self.start()
                await self.ready()
                self._on_change(self.pid)
            except (TidemillError, OSError):
                _log.exception("the data process did not come back; again in %.1f s", pause)

    async def stop(self) -> None:
        """TERM, then KILL; returns when it is gone."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await asyncio.to_thread(terminate, self.pid, STOP_S)


def spawn(home: Home, port: int) -> int:
    """Starts the data process in a session of its own. -> pid."""
    with open(home.logs / "data.log", "ab") as log:
        argv = [sys.executable, "-m", MODULE, "--home", str(home.root), "--port", str(port)]
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True
        )
    child.returncode = 0  # reaped by wait_exit or terminate, not by Popen
    return child.pid


def find(home: Home) -> tuple[int, int] | None:
    """(pid, port) of the data process that serves this home now. Waits for one that is just starting."""
    until = time.monotonic() + READY_S
    while is_held(home.root) and time.monotonic() < until:
        state = read_state(home.root / STATE)
        # After a kill the file may name a process that is gone, or a pid that somebody else has now.
        if state is not None and _is_data_process(state["pid"], home.root):
            return state["pid"], state["port"]
        time.sleep(0.01)
    return None


def listens_as(home: Home, config: Config) -> bool:
    """Whether the one that runs was started for the addresses, names and certificate that are wanted."""
    state = read_state(home.root / STATE)
    return state is not None and state["listening"] == mark_of(config.listening, config.own_pair)


def user_of(pid: int) -> int | None:
    """The user that a process runs as; None when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith("Uid:"))


def _is_data_process(pid: int, home: Path) -> bool:
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return MODULE.encode() in argv and str(home).encode() in argv


async def wait_exit(pid: int) -> None:
    """Returns when the process is gone, child or not, without polling."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        _reap(pid)


def terminate(pid: int, seconds: float) -> bool:
    """TERM, wait, KILL, wait. Blocks up to twice `seconds`. -> whether it is gone."""
    import select

    if pid <= 0:
        return True
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            if select.select([descriptor], [], [], seconds)[0]:
                return True
        return False
    finally:
        os.close(descriptor)
        _reap(pid)


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _alive(pid: int) -> bool:
    _reap(pid)
    return Path(f"/proc/{pid}").exists()
