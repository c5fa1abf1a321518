"""Sessions: processes that somebody starts inside a running task, to look around or to reach its ports.

A session is two processes. The keeper, a fork of the agent, joins the task's namespaces, becomes the task's
user without any capability, and starts the session's own process there; it waits for it and says how it
ended. That one joins the task's control groups, so that the task's end is its end.

The client gets descriptors (SCM_RIGHTS) and no byte passes through the agent: `report`, on which the keeper
says {"terminal": …} with the terminal's descriptor, {"failed": sentence}, {"exit": code}, and without a
terminal the other ends of standard input, output and error. A client that goes away ends its session.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import stat
import struct
import termios

from tidemill.agent.refused import Refused
from tidemill.agent.spawn import DEFAULT_SIGNALS, keep_only
from tidemill.sandbox import cgroups, joining, linux, processes, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from tidemill.agent.place import Place
    from tidemill.agent.task import Task

MOST = 32  # sessions on a node at once
_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441
_PTMX = os.makedev(5, 2)
_SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh")
_RUN = ("/bin/sh", "/usr/bin/sh", "/bin/bash", "/usr/bin/bash")
_TERM_NAME = 64


class Entry:
    """What a session's process is and becomes. `argv` empty: a shell. `spaces` None: the agent's own;
    `uid` is set in the innermost user namespace (-1: ours stays); `join` are the tasks files of control
    groups; `size` (rows, columns) of its terminal, None: `streams` are its descriptors 0, 1 and 2."""

    __slots__ = ("argv", "cwd", "env", "filter", "folder", "join", "size", "spaces", "streams", "uid")

    def __init__(self, argv: list[str], env: dict[str, str], cwd: str, folder: str, uid: int) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.folder = folder  # where `cwd` is gone
        self.uid = uid
        self.spaces: joining.Spaces | None = None
        self.filter = b""
        self.join: list[int] = []
        self.size: tuple[int, int] | None = None
        self.streams: list[int] = []

    @property
    def descriptors(self) -> set[int]:
        return {*self.join, *self.streams, *(self.spaces.descriptors if self.spaces else ())}


class Session:
    __slots__ = ("client", "keeper", "name", "task")

    def __init__(self, keeper: int, task: Task, client: int, name: str = "") -> None:
        self.keeper = keeper
        self.name = name  # of a service: no client's, so -1 is
        self.task = task
        self.client = client  # descriptor of its connection


class Sessions:
    """Of one node."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._sessions: dict[int, Session] = {}  # by keeper

    def start(self, task: Task, m: dict[str, Any], client: int) -> list[int]:
        """-> the descriptors for the client: `report`, then, without a terminal, input, output and error.
        They are to be closed once they are sent. Raises Refused."""
        if len(self._sessions) >= MOST:
            raise Refused("busy", f"{MOST} sessions are open on this node already: end one of them first")
        entry = self._entry(task, m)
        handed: list[int] = []
        try:
            if entry.size is None:
                entry.streams, handed = _pipes(self._place.uid)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                keeper = os.fork()
                if keeper == 0:
                    _keep(entry, theirs)
            self._sessions[keeper] = Session(keeper, task, client)
            return [ours.detach(), *handed]
        except OSError as error:
            for fd in handed:
                os.close(fd)
            raise Refused("invalid", f"no process can be started on this node: {error}") from None
        finally:
            for fd in entry.descriptors:
                os.close(fd)

    def start_beside(self, task: Task, m: dict[str, Any], open_log: Callable[[str], int]) -> None:
        """A service: like a session without a terminal, but it writes to a log and stays as long as the task.
        What became of it is in `task.beside`. Raises Refused ("starting")."""
        name = str(m["name"])
        if self._place.network is None:
            why = "this node gives jobs no network of their own, so everybody on the host could reach it"
            task.beside[name] = {"running": False, "why": why}
            return
        entry = self._entry(task, m)
        try:
            log = open_log(str(m["log_path"]))
            entry.streams = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), log, os.dup(log)]
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours, theirs:
                keeper = os.fork()
                if keeper == 0:
                    ours.close()  # what it says nobody reads
                    _keep(entry, theirs)
            self._sessions[keeper] = Session(keeper, task, -1, name)
            task.beside[name] = {"running": True}
        except (OSError, Refused) as error:
            task.beside[name] = {"running": False, "why": str(error)}
        finally:
            for fd in entry.descriptors:
                os.close(fd)

    def dial(self, task: Task) -> int:
        """A TCP socket, not connected yet, in the task's network. Raises Refused."""
        try:
            spaces = joining.Spaces(_inside(task, self._place.box.made), ("net",))
        except OSError as error:
            raise Refused("gone", f"the job's network cannot be found: {error.strerror}") from None
        try:
            return _socket_in(spaces)
        except OSError as error:
            raise Refused("invalid", f"the job's network cannot be entered: {error}") from None
        finally:
            spaces.close()

    def of(self, task: Task) -> bool:
        """Whether any of a task's sessions is still there."""
        return any(s.task is task for s in self._sessions.values())

    def keepers(self) -> set[int]:
        return set(self._sessions)

    def reaped(self, pid: int, status: int) -> None:
        session = self._sessions.pop(pid, None)
        if session is not None and session.name:
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
            session.task.beside[session.name] = {"running": False, "exit_code": code}

    def left(self, client: int) -> None:
        """The client's connection is closed."""
        for session in [s for s in self._sessions.values() if s.client == client]:
            self._end(session)

    def end(self, task: Task) -> None:
        for session in [s for s in self._sessions.values() if s.task is task]:
            self._end(session)

    def _end(self, session: Session) -> None:
        """Its process and what shares a session with it: what left that on purpose stays with the job."""
        task = session.task
        inside = processes.descendants(task.main) + processes.descendants(session.keeper)
        if task.group:
            inside = cgroups.processes(task.group)
        leaders = processes.children(session.keeper)
        processes.kill([session.keeper], signal.SIGTERM)
        processes.kill([pid for pid in inside if _session_of(pid) in leaders])

    def _entry(self, task: Task, m: dict[str, Any]) -> Entry:
        place = self._place
        boxed = place.box.made
        size = (int(m["tty"][0]), int(m["tty"][1])) if m.get("tty") else None
        try:
            pid = _inside(task, boxed)
            env = _environment(task)
            uid = (place.uid or os.getuid()) if boxed else (place.uid or -1)
            entry = Entry(
                [str(word) for word in m["argv"]],
                {**env, **_terminal_variables(m, size)},
                task.cwd,
                f"{place.work_path}/{task.attempt}",
                uid,
            )
            entry.size = size
            entry.spaces = joining.Spaces(pid) if boxed else joining.Spaces(pid, ("net",))
            if not _still(pid, task.main):  # its number may have become another's meanwhile
                entry.spaces.close()
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        except OSError as error:
            raise Refused("gone", f"the job's process cannot be entered: {error.strerror}") from None
        if boxed:
            entry.filter = seccomp.program(os.uname().machine)
        if task.group:
            for directory in place.groups.joined_by(task.group):
                entry.join.append(os.open(f"{directory}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
        return entry


def _still(pid: int, main: int) -> bool:
    """Whether it is the task's main process, or a child of it, now."""
    return pid == main or pid in processes.children(main)


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _inside(task: Task, boxed: bool) -> int:
    """A process whose namespaces are the task's: in a sandbox the init of its PID namespace, once it has
    a child (its mounts are made then)."""
    if not boxed:
        return task.main
    init = next((pid for pid in processes.children(task.main) if processes.is_init(pid)), 0)
    if task.container:
        init = task.main
    if not init or not processes.children(init):
        raise Refused("starting", "the job's sandbox is just being made (or removed): try again")
    return init


def _environment(task: Task) -> dict[str, str]:
    """The task's, as it was started; with what bubblewrap was told to set only inside."""
    found: dict[str, str] = {}
    with open(f"/proc/{task.main}/environ", "rb") as file:
        for item in file.read().split(b"\0"):
            name, equals, value = os.fsdecode(item).partition("=")
            if equals:
                found[name] = value
    if task.container:
        return found
    with open(f"/proc/{task.main}/cmdline", "rb") as file:
        words = [os.fsdecode(word) for word in file.read().split(b"\0")]
    options = words[: words.index("--")] if "--" in words else []
    for at, word in enumerate(options[:-2]):
        if word == "--setenv":
            found[options[at + 1]] = options[at + 2]
    return found


def _terminal_variables(m: dict[str, Any], size: tuple[int, int] | None) -> dict[str, str]:
    name = str(m.get("term") or "xterm")[:_TERM_NAME]
    return {"TERM": name} if size is not None and name.replace("-", "").isalnum() else {}


def _pipes(uid: int) -> tuple[list[int], list[int]]:
    """(the process's ends, the client's) of input, output and error. A program may open /dev/stdout anew, so
    they are the job's own."""
    theirs: list[int] = []
    handed: list[int] = []
    for number in range(3):
        reader, writer = os.pipe()
        theirs.append(writer if number else reader)
        handed.append(reader if number else writer)
        if uid:
            os.fchown(writer if number else reader, uid, uid)
    return theirs, handed


def _socket_in(spaces: joining.Spaces) -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            spaces.join()
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
                socket.send_fds(theirs, [b"{}"], [made.fileno()])
        except OSError as error:
            theirs.send(str(error).encode()[:1000] or b"?")
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        said, fds, _, _ = socket.recv_fds(ours, 1024, 1, socket.MSG_CMSG_CLOEXEC)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    if not fds:
        raise OSError(said.decode(errors="replace") or "it ended without a word")
    return fds[0]


# --- in the keeper


def _keep(entry: Entry, report: socket.socket) -> NoReturn:
    """Never returns. Until its process runs, it is of no user and no namespace that a job could reach."""
    code = 70
    try:
        code = _kept(entry, report)
    finally:
        os._exit(code)


def _kept(entry: Entry, report: socket.socket) -> int:
    agent = os.getppid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    keep_only({report.fileno(), *entry.descriptors})
    boxed = bool(entry.filter)
    step = "enter the job's namespaces"
    try:
        if entry.spaces is not None:
            entry.spaces.join()
        step = f"become uid {entry.uid}"
        if boxed:
            linux.drop_bounding_set()  # who is no root any more may not, unless a user namespace is the job's
        if entry.uid >= 0:
            os.setresgid(entry.uid, entry.uid, entry.uid)
            os.setresuid(entry.uid, entry.uid, entry.uid)
        if boxed:
            linux.drop_capabilities()
        linux.signal_on_parent_death(signal.SIGTERM)
        child = os.fork()
        if child == 0:
            _become(entry, report)
    except OSError as error:
        _say(report, {"failed": f"could not {step}: {error.strerror or error}"})
        return 1
    signal.signal(signal.SIGTERM, lambda *_: processes.kill([child]))
    for fd in entry.descriptors:
        os.close(fd)
    if not boxed:
        linux.become_subreaper()
        if os.getppid() != agent:
            processes.kill([child])
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if not boxed:
        _sweep()
    code = code if code >= 0 else 128 - code
    _say(report, {"exit": code})
    return code


def _sweep() -> None:
    """Without a sandbox nothing else ends what the session's process left behind."""
    while True:
        processes.kill(processes.children(os.getpid()))
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _become(entry: Entry, report: socket.socket) -> NoReturn:
    step = "join the job's control groups"
    try:
        for membership in entry.join:
            os.write(membership, b"0")
        linux.signal_on_parent_death(signal.SIGKILL)
        for number in (*DEFAULT_SIGNALS, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.umask(0o022)
        step = "open a terminal"
        streams = entry.streams if entry.size is None else [_terminal(entry.size, report)] * 3
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        step = f"enter the directory {entry.cwd!r}"
        _go(entry)
        step = "find a shell"
        program, argv = _program(entry)
        if entry.filter:
            step = "filter system calls"
            linux.filter_calls(entry.filter)
        step = f"run {argv[0]!r}"
        os.execve(program, argv, entry.env)
    except BaseException as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        with contextlib.suppress(OSError):
            _say(report, {"failed": f"could not {step}: {why}"})
    finally:
        os._exit(127)


def _go(entry: Entry) -> None:
    for folder in (entry.cwd, entry.folder, "/"):
        with contextlib.suppress(OSError):
            return os.chdir(folder)


def _terminal(size: tuple[int, int], report: socket.socket) -> int:
    """A terminal of the sandbox's own /dev/pts, so that its name means something there. The other end goes
    to the client; a job that put something else at /dev/ptmx gets nothing."""
    flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
    ours = os.open("/dev/ptmx", flags)
    info = os.fstat(ours)
    if not stat.S_ISCHR(info.st_mode) or info.st_rdev != _PTMX:
        raise OSError(0, "/dev/ptmx is no terminal multiplexer")
    fcntl.ioctl(ours, _TIOCSPTLCK, struct.pack("i", 0))
    terminal = fcntl.ioctl(ours, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    socket.send_fds(report, [b'{"terminal":true}'], [ours])
    return terminal


def _program(entry: Entry) -> tuple[int, list[str]]:
    """(its file, open, and its arguments). The first program run in there must be no script: one that names
    /proc/self/exe would run the agent's own Python, and a job without a user of its own could write to it."""
    for path in _RUN if entry.argv else _SHELLS:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        if os.pread(fd, 4, 0) == b"\x7fELF":
            name = os.path.basename(path)
            return fd, [path, "-c", 'exec "$@"', name, *entry.argv] if entry.argv else [f"-{name}"]
        os.close(fd)
    raise OSError(0, f"none of {', '.join(_SHELLS)} is a program there")


def _say(report: socket.socket, what: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the client has gone
        report.send(json.dumps(what).encode()[:4000])
