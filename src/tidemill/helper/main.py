"""The privileged helper of one home, as root: `python -I -S …/tidemill/helper/main.py HOME UID BIND… --
TOOL… ROOM`.

UID is the server's user, BIND what nodes must be able to read, TOOL what builds must, ROOM nothing (see
forks.py). It says `ready` on standard output once it can be asked, and forks away. Two processes: one
answers, the other starts it again when it dies; all they know is on disk. HOME/helper/ (root's, its group is
the server's): lock (both pids inside), sock, helper.log.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
from pathlib import Path

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from tidemill.helper import door
from tidemill.helper.builds import Builds
from tidemill.helper.nodes import Nodes
from tidemill.helper.verbs import Verbs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_S = 30.0  # between two looks whether the home is still there
QUICK_S, PAUSE_S = 5.0, 0.2


def main(home: str, user: int, binds: list[str], tools: list[str]) -> None:
    os.umask(0o077)
    os.chdir("/")
    folder = os.open(f"{home}/helper", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if os.fstat(folder).st_uid != 0:
        raise PermissionError(f"{home}/helper does not belong to root")
    lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    listener = _listen(folder, user)
    if os.fork():
        os._exit(0)
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.write(1, b"ready\n")
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)
    os.close(null)
    verbs = Verbs(Nodes(Path(home), binds), Builds(Path(home), user, tools), user)
    _supervise(lambda: _serve(listener, verbs, user, folder), lock)


def _listen(folder: int, user: int) -> socket.socket:
    """Bound relative to the directory: a home's path may be longer than a socket address (108 bytes)."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink("sock", dir_fd=folder)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"/proc/self/fd/{folder}/sock")
    os.chown("sock", 0, user, dir_fd=folder, follow_symlinks=False)
    os.chmod(f"/proc/self/fd/{folder}/sock", 0o660)
    listener.listen(64)
    return listener


def _supervise(serve: Callable[[], None], lock: int) -> None:
    while True:
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            try:
                serve()
                os._exit(0)
            finally:
                os._exit(1)
        os.pwrite(lock, f"{os.getpid()} {pid}".ljust(31).encode() + b"\n", 0)  # never seen half-written
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
            return
        if time.monotonic() - started < QUICK_S:
            time.sleep(PAUSE_S)


def _serve(listener: socket.socket, verbs: Verbs, user: int, folder: int) -> None:
    listener.settimeout(LOOK_S)
    while not verbs.ending:
        try:
            link, _ = listener.accept()
        except TimeoutError:
            if os.fstat(folder).st_nlink == 0:
                return
            continue
        with link:
            _answer(link, verbs, user)


def _answer(link: socket.socket, verbs: Verbs, user: int) -> None:
    caller = door.Caller(link)
    try:
        request = door.receive(link)  # first: what is closed with something unread loses its answer
        if caller.uid != user:
            raise door.Refused("the helper serves one user, and it is not you")
        body, fds = verbs.carry_out(request, caller)
    except door.Refused as error:
        door.answer(link, {"refused": str(error)})
    except EOFError:
        return
    except OSError as error:
        _log(f"{error}")
        door.answer(link, {"refused": str(error)})
    else:
        door.answer(link, body, fds)


def _log(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{time.strftime('%FT%TZ', time.gmtime())} {text}\n".encode())


if __name__ == "__main__":
    paths = sys.argv[3:-1]
    middle = paths.index("--")
    main(sys.argv[1], int(sys.argv[2]), paths[:middle], paths[middle + 1 :])
