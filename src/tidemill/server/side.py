"""The processes beside control, data and gateway: adopted when they outlived a killed server, else started;
started again on the same ports when they die."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import logging.handlers
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.domain.errors import TidemillError
from tidemill.domain.listening import Listening
from tidemill.identity.ca import Pair
from tidemill.server.home import Home

READY_S = 30.0
STOP_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
_LOG_BYTES = 10 << 20


@dataclass(frozen=True, slots=True)
class Kind:
    """`lock` is held, in the home, for as long as it lives; `state` says {"pid", the ports, "listening"} once
    it listens. `ports`: their names there, and the flags that set them."""

    name: str
    module: str
    lock: str
    state: str
    log: str
    ports: Mapping[str, str]


DATA = Kind(
    "data process",
    "tidemill.server.data_process",
    "data.lock",
    "data.json",
    "data.log",
    {"port": "--port"},
)
GATEWAY = Kind(
    "gateway",
    "tidemill.server.gateway_process",
    "gateway.lock",
    "gateway.json",
    "gateway.log",
    {"port": "--port", "http_port": "--http-port"},
)
KINDS = (DATA, GATEWAY)


# --- the process itself


def hold(home: Path, kind: Kind) -> int | None:
    """Takes its lock: -> its descriptor, to be kept open; None while another such process lives."""
    fd = os.open(home / kind.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def mark_of(listening: Listening, own: Pair | None, helped: bool = False) -> str:
    """What a process was started for, to be compared with what is wanted now."""
    pair = [str(own.certificate), str(own.key)] if own is not None else []
    return json.dumps([listening.addresses, listening.names, pair, helped])


def write_state(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(state))
    temporary.replace(path)


def log_to(path: Path, own: logging.Logger) -> None:
    """`own` tells more than the rest."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=2)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    own.setLevel(logging.INFO)


def given(words: str) -> dict[str, list[socket.socket]]:
    """The sockets that it was started with (`--sockets`), by the names of its ports; none for ""."""
    found = {
        name: [socket.socket(fileno=fd) for fd in fds] for name, fds in json.loads(words or "{}").items()
    }
    for sock in (sock for sockets in found.values() for sock in sockets):
        sock.set_inheritable(False)
        sock.setblocking(False)
    return found


# --- as control sees it


def read_state(home: Path, kind: Kind) -> dict[str, Any] | None:
    """{"pid", the ports, "listening"}, as far as its file says; None where there is none."""
    try:
        state = json.loads((home / kind.state).read_bytes())
        ports = {name: int(state[name]) for name in kind.ports}
        return {"pid": int(state["pid"]), **ports, "listening": str(state.get("listening", ""))}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_held(home: Path, kind: Kind) -> bool:
    """True while such a process of this home lives."""
    fd = hold(home, kind)
    if fd is None:
        return True
    os.close(fd)
    return False


class Supervised:
    """One process beside control. `ports`: by their names in `kind`; `flags`: what it is started with
    besides; `on_change(pid)` is called after each restart. `sockets` listen on these ports, for its first
    start: nobody else can have the ports meanwhile."""

    def __init__(
        self,
        kind: Kind,
        home: Home,
        ports: Mapping[str, int],
        on_change: Callable[[int], None],
        flags: tuple[str, ...] = (),
        sockets: Mapping[str, Sequence[socket.socket]] | None = None,
    ) -> None:
        self._kind = kind
        self._home = home
        self._on_change = on_change
        self._flags = flags
        self._sockets = dict(sockets or {})
        self._watch: asyncio.Task[None] | None = None
        self._log = logging.getLogger(f"tidemill.{kind.name}")
        self.ports = dict(ports)
        self.pid = 0

    def start(self) -> None:
        """Spawns it; `ready` waits until it listens."""
        sockets, self._sockets = self._sockets, {}
        try:
            self.pid = spawn(self._kind, self._home, self.ports, self._flags, sockets)
        finally:
            for sock in (sock for found in sockets.values() for sock in found):
                sock.close()

    async def ready(self) -> None:
        """Returns once it serves. Raises TidemillError when it ends, or after READY_S."""
        until = time.monotonic() + READY_S
        while (read_state(self._home.root, self._kind) or {}).get("pid") != self.pid:
            if not _alive(self.pid) or time.monotonic() > until:
                raise TidemillError(
                    f"The {self._kind.name} did not start. Its log has the reason: "
                    f"{self._home.logs / self._kind.log}",
                    "SideProcessFailed",
                    status=500,
                )
            await asyncio.sleep(0.005)

    def supervise(self) -> None:
        self._watch = asyncio.create_task(self._supervise(), name=self._kind.name)

    async def _supervise(self) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            started = time.monotonic()
            await wait_exit(self.pid)
            self._log.warning("the %s (pid %d) ended; it is started again", self._kind.name, self.pid)
            pause = _FIRST_PAUSE_S if time.monotonic() - started > 10 else min(pause * 2, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause)
            try:
                self.start()
                await self.ready()
                self._on_change(self.pid)
            except (TidemillError, OSError):
                self._log.exception("the %s did not come back; again in %.1f s", self._kind.name, pause)

    async def stop(self) -> None:
        """TERM, then KILL; returns when it is gone."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await asyncio.to_thread(terminate, self.pid, STOP_S)


def spawn(
    kind: Kind,
    home: Home,
    ports: Mapping[str, int],
    flags: tuple[str, ...],
    sockets: Mapping[str, Sequence[socket.socket]],
) -> int:
    """Starts one in a session of its own, on `sockets` where there are some. -> pid."""
    with open(home.logs / kind.log, "ab") as log:
        argv = [sys.executable, "-m", kind.module, "--home", str(home.root), *flags]
        for name, flag in kind.ports.items():
            argv += [flag, str(ports[name])]
        fds = {name: [sock.fileno() for sock in found] for name, found in sockets.items()}
        if fds:
            argv += ["--sockets", json.dumps(fds)]
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[fd for found in fds.values() for fd in found],
        )
    child.returncode = 0  # reaped by wait_exit or terminate, not by Popen
    return child.pid


def find(home: Home, kind: Kind) -> dict[str, Any] | None:
    """What the state says of the one that serves this home now. Waits for one that is just starting."""
    until = time.monotonic() + READY_S
    while is_held(home.root, kind) and time.monotonic() < until:
        state = read_state(home.root, kind)
        # After a kill the file may name a process that is gone, or a pid that somebody else has now.
        if state is not None and _is_one(state["pid"], kind, home.root):
            return state
        time.sleep(0.01)
    return None


def user_of(pid: int) -> int | None:
    """The user that a process runs as; None when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith("Uid:"))


def _is_one(pid: int, kind: Kind, home: Path) -> bool:
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return kind.module.encode() in argv and str(home).encode() in argv


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
