"""The supervisor: one small process that listens, starts workers, watches them, and drains them."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any, Mapping

from . import settings as settings_
from . import shared, state
from .door import Door, Poller, Worker
from .health import Health
from .log import Log, write
from .settings import SettingError, Settings
from .shared import Board, Channel
from .state import StateFile

DRAINED, FAILED = 0, 3  # exit codes; 3 is gunicorn's for a worker that cannot boot
ABORT_S = 1.0  # between SIGABRT, at which a worker writes where it hangs, and SIGKILL
MOST_FAILED_STARTS = 3
_BACKOFF_S = (0.0, 1.0, 4.0, 15.0)


def main(environ: Mapping[str, str]) -> int:
    try:
        settings = settings_.read(environ)
        _allow_descriptors()
        listener = _listen(settings)
    except (SettingError, OSError) as error:
        file = StateFile(environ.get("TIDEMILL_SERVING_STATE", ""), "", lambda text: write(text + "\n"))
        file.set(state=state.FAILED, error=state.failure("config", error))
        write(f"The scoring server cannot start: {error}\n")
        return FAILED
    return Supervisor(settings, listener).run()


def _allow_descriptors() -> None:
    """Two for each connection: one here, one in its worker."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = shared.MOST_CONNECTIONS * 2 if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(settings: Settings) -> socket.socket:
    """Raises OSError that names the address."""
    where = (settings.host, settings.port)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise OSError("cannot listen on {}:{}: {}".format(*where, error.strerror)) from None
    listener.setblocking(False)
    return listener


class Process(Worker):
    """A worker process. `end`: (status, reason) for the requests it leaves, when we end it."""

    def __init__(self, index: int, channel: Channel, pid: int) -> None:
        super().__init__(index, channel)
        self.pid = pid
        self.error: dict[str, Any] | None = None
        self.end: tuple[int, str] | None = None
        self.kill_at = 0.0


class Supervisor:
    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._log = Log(settings.log_level)
        self._board = Board()
        self._poller = Poller()
        self._workers: dict[int, Process] = {}  # by index
        self._starts: dict[int, float] = {}  # index -> when it is started again
        self._failed_starts = 0
        self._restarts = 0
        self._was_ready = False
        self._exit: int | None = None
        self._drain_until = 0.0
        port = listener.getsockname()[1]
        self._file = StateFile(settings.state_file, settings.host, self._log.error)
        self._file.set(state=state.STARTING, port=port)
        version = settings.server_version
        headers = f"x-ms-server-version: {version}\r\n" if version else ""
        self._door = Door(
            listener, self._board, self._poller, lambda: list(self._workers.values()), self.health, headers
        )
        self._signals, self._waker = socket.socketpair()
        for end in (self._signals, self._waker):
            end.setblocking(False)
        self._log.info("listening on %s:%s, %s worker(s)", settings.host, port, settings.workers)

    def health(self) -> Health:
        ready = any(worker.ready for worker in self._workers.values())
        if self._drain_until:
            return Health(ready=False, soon=False, reason="The server is shutting down.")
        if ready:
            return Health(ready=True, soon=False, reason="")
        if self._was_ready:
            reason = "All workers ended and are being started again."
            return Health(ready=False, soon=True, reason=reason)
        return Health(ready=False, soon=False, reason="The server is not ready yet: init() has not finished.")

    # -- the loop

    def run(self) -> int:
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self._poller.register(self._signals.fileno(), select.EPOLLIN, self._on_signals)
        for index in range(self._settings.workers):
            self._start(index)
        while self._exit is None:
            self._poller.run_once(self._timeout())
            self._tick(time.monotonic())
        for worker in self._workers.values():
            _kill(worker.pid, signal.SIGKILL)
        return self._exit

    def _timeout(self) -> float | None:
        """Nothing wakes us while nobody is connected and everything lives."""
        if self._starts or self._drain_until or any(worker.kill_at for worker in self._workers.values()):
            return 0.05
        if not self._door.waits():
            return None
        return (
            min(1.0, max(0.02, self._settings.worker_timeout_s / 4))
            if self._settings.worker_timeout_s
            else 1.0
        )

    def _tick(self, now: float) -> None:
        self._door.tick(now)
        self._door.hand_over_held()
        for index, at in list(self._starts.items()):
            if now >= at and not self._drain_until:
                del self._starts[index]
                self._start(index)
        for worker in self._workers.values():
            self._watch_over(worker, now)
        if self._drain_until:
            if not self._workers:
                self._exit = DRAINED
            elif now >= self._drain_until:
                self._log.warning(
                    "%s worker(s) had not finished after %g s", len(self._workers), self._settings.grace_s
                )
                self._exit = DRAINED

    def _watch_over(self, worker: Process, now: float) -> None:
        if worker.kill_at:
            if now >= worker.kill_at:
                _kill(worker.pid, signal.SIGKILL)
            return
        since, limit = self._board.busy[worker.index], self._settings.worker_timeout_s
        if not since or not limit or now - since < limit or not worker.ready:
            return
        reason = f"run() gave no sign of life for {limit:g} s (WORKER_TIMEOUT), so its worker was ended."
        self._log.error("worker %s: %s Where it hangs:", worker.pid, reason)
        worker.end = 504, reason
        worker.kill_at = now + ABORT_S
        _kill(worker.pid, signal.SIGABRT)

    def _on_signals(self, _events: int) -> None:
        numbers = self._signals.recv(256)
        if signal.SIGCHLD in numbers:
            self._reap()
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._drain(signal.Signals(number).name)

    def _drain(self, why: str) -> None:
        if self._drain_until:
            self._log.warning("%s again: ending at once", why)
            self._exit = DRAINED
            return
        self._log.info("%s: draining, for at most %g s", why, self._settings.grace_s)
        self._drain_until = time.monotonic() + self._settings.grace_s
        self._file.set(state=state.DRAINING)
        self._door.stop_listening()
        for worker in self._workers.values():
            if not worker.ready or not worker.channel.send(shared.DRAIN):
                _kill(worker.pid, signal.SIGTERM)

    # -- workers

    def _start(self, index: int) -> None:
        ours, theirs = shared.pair()
        self._board.busy[index] = 0.0
        self._board.slow[index] = 0
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:
            self._log.error("a worker cannot be started: %s; it is tried again", error.strerror)
            ours.close()
            theirs.close()
            self._starts[index] = time.monotonic() + _BACKOFF_S[-1]
            return
        if pid == 0:
            ours.close()
            self._become_worker(index, theirs)
        theirs.close()
        worker = Process(index, ours, pid)
        self._workers[index] = worker
        self._poller.register(ours.fileno(), select.EPOLLIN, lambda _: self._hear(worker))

    def _become_worker(self, index: int, channel: Channel) -> None:
        """Never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's: the supervisor drains us
            self._poller.close()
            for descriptor in self._door.descriptors():
                os.close(descriptor)
            for worker in self._workers.values():
                worker.channel.close()
            self._signals.close()
            self._waker.close()
            faulthandler.enable()
            from . import worker as worker_

            code = worker_.main(self._settings, self._board, index, channel, self._log)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            try:
                atexit._run_exitfuncs()
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def _hear(self, worker: Process) -> None:
        try:
            while True:
                heard = worker.channel.receive()
                if heard is None:
                    break
                self._take(worker, *heard[:3])
        except EOFError:
            self._poller.unregister(worker.channel.fileno())  # its end is told by SIGCHLD
        self._door.hand_over_held()

    def _take(self, worker: Process, kind: int, slot: int, payload: bytes) -> None:
        if kind == shared.CLOSED:
            self._door.closed_by(worker, slot)
        elif kind == shared.BACK:
            self._door.back_from(worker, slot)
        elif kind == shared.LINGER:
            self._door.linger_from(worker, slot)
        elif kind == shared.READY:
            worker.ready = True
            self._was_ready = True
            self._failed_starts = 0
            self._tell()
        elif kind == shared.FAILED:
            worker.error = json.loads(payload.decode())

    def _tell(self) -> None:
        ready = sum(worker.ready for worker in self._workers.values())
        now = self._file.state
        if ready and now == state.STARTING:
            now = state.READY
        self._file.set(state=now, workers=ready, restarts=self._restarts)

    def _reap(self) -> None:
        by_pid = {worker.pid: worker for worker in self._workers.values()}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = by_pid.get(pid)
            if worker is not None:
                self._ended(worker, status)

    def _ended(self, worker: Process, status: int) -> None:
        self._hear(worker)
        self._poller.unregister(worker.channel.fileno())
        worker.channel.close()
        del self._workers[worker.index]
        self._board.busy[worker.index] = 0.0
        was_ready, worker.ready = worker.ready, False
        how = _how(status)
        code, reason = worker.end or (502, f"The worker that had this request ended ({how}).")
        lost = self._door.died(worker, code, reason)
        if self._drain_until:
            return
        if was_ready:
            self._log.error(
                "worker %s ended (%s); %s request(s) lost; it is started again", worker.pid, how, lost
            )
        else:
            self._failed_starts += 1
        error = worker.error or _sudden(how)
        if (
            not was_ready
            and (not self._was_ready or self._failed_starts >= MOST_FAILED_STARTS)
            and not any(other.ready for other in self._workers.values())
        ):
            self._file.set(state=state.FAILED, workers=0, error=error)
            self._exit = FAILED
            return
        self._restarts += 1
        wait = _BACKOFF_S[min(self._failed_starts, len(_BACKOFF_S) - 1)]
        self._starts[worker.index] = time.monotonic() + wait
        self._tell()


def _sudden(how: str) -> dict[str, str]:
    return {
        "stage": "init",
        "type": "WorkerEnded",
        "message": f"The worker ended before it was ready: {how}.",
        "traceback": "",
    }


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = str(number)
        return "signal " + name + (", as when memory runs out" if number == signal.SIGKILL else "")
    return f"exit code {os.WEXITSTATUS(status)}"


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
