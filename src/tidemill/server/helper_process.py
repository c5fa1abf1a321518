"""The home's privileged helper (`helper/`), started and ended by root."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from tidemill.domain.errors import TidemillError
from tidemill.environments import index
from tidemill.environments.process import uv_program
from tidemill.helper import forks
from tidemill.helper import main as helper
from tidemill.server import seen
from tidemill.server.folders import opened

_READY_S, _STOP_S = 30.0, 5.0


def start(home: Path, user: int) -> None:
    """In place of the one of an earlier start. Raises TidemillError."""
    stop(home)
    binds = [home / "envs", home / "images", home / "tls" / "ca-bundle.pem", Path(sys.base_prefix)]
    argv = [sys.executable, "-I", "-S", "-X", "utf8", helper.__file__, str(home), str(user)]
    with opened(home, "helper") as folder:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        log = os.open("helper.log", flags, 0o600, dir_fd=folder)
    try:
        child = subprocess.Popen(
            [*argv, *map(str, binds), "--", *_tools(), "-" * forks.ROOM],
            env=forks.environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    finally:
        os.close(log)
    with child:
        assert child.stdout is not None
        ready = bool(select.select([child.stdout], [], [], _READY_S)[0]) and child.stdout.readline()
        child.stdout.close()
        if ready != b"ready\n":
            child.kill()
            raise TidemillError(
                f"The privileged helper did not start. Its log has the reason: {home}/helper/helper.log",
                "HelperFailed",
                status=500,
            )


def _tools() -> list[str]:
    """What builds read, wherever it lies: root's word, as of this start."""
    settings = index.settings({**seen.uv_settings_variable(), **os.environ})
    return [uv_program(), sys.base_prefix, *settings.files]


def stop(home: Path) -> list[int]:
    """-> the processes that were ended. Nodes and what runs on them are not touched."""
    try:
        with opened(home, "helper") as folder:
            if os.fstat(folder).st_uid != 0:
                return []
            lock = os.open("lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
    except OSError:
        return []
    try:
        stopped: list[int] = []
        while not _locked(lock):
            pids = [int(word) for word in os.pread(lock, 64, 0).split() if word.isdigit()]
            if not pids:
                select.select([], [], [], 0.005)  # it is just starting
            for pid in pids:  # the one that starts the other first
                if _kill(pid):
                    stopped.append(pid)
        return stopped
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _kill(pid: int) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if os.fsencode(helper.__file__) not in words:  # it has ended, and the pid is another's
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], _STOP_S)
        return True
    except (OSError, ProcessLookupError):
        return False
    finally:
        os.close(handle)
