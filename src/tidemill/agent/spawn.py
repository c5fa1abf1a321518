"""From a task to its processes, contained so that all of them can be killed and proved gone.

`Grouped`: the process is born in a control group of its own; the kernel knows who is in it. `shepherded`: no
control groups; a fork of the agent stands between, as the reaper of every orphan below it. It ends only when
it has no children left, which is the proof, and kills them all when the agent dies or asks (SIGTERM).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

from tidemill.sandbox import linux, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from tidemill.sandbox.network import Namespace


# What the agent ignores or handles for itself, back to what a program expects.
DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGHUP, signal.SIGINT, signal.SIGXFSZ)
STRAYED = 71  # the exit code of an agent that could not return from a start


class Order:
    """What to start. `log` is an open O_APPEND descriptor; `uid` 0 keeps the agent's own user; `handed` are
    descriptors by the numbers (3 and up) that they are handed over as; `network` is where it is born (None:
    where the agent is), `view` the mount namespace (-1: the agent's), in which `mounts`, (clone of a mount,
    path), are mounted before."""

    __slots__ = ("argv", "cwd", "env", "handed", "log", "mounts", "network", "uid", "view")

    def __init__(self, argv: list[str], env: dict[str, str], cwd: str, log: int, uid: int) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.log = log
        self.uid = uid
        self.handed: dict[int, int] = {}
        self.network: Namespace | None = None
        self.view = -1
        self.mounts: list[tuple[int, str]] = []


class Failed(OSError):
    """A process could not be started. `str()` says at which step, and why."""


class Spawned:
    """`pid` is the child the agent waits for. `pipe` (a shepherd's only; else -1; non-blocking) says why a
    start failed, and lines "pid N" and "status N" of the task's own process."""

    __slots__ = ("pid", "pipe")

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.pipe = pipe


class Grouped:
    """Starts processes that are born in their control groups, by posix_spawn: a fork would copy the agent's
    page tables, which is three times the work.

    posix_spawn joins no group or network and takes no user, so for that moment the agent itself takes them
    on and then returns. Root stays its saved user id throughout. From a user namespace there is no return: a
    task of such a network is forked. `home` are the directories of its own groups.
    """

    def __init__(self, home: list[str]) -> None:
        self._null = os.open("/dev/null", os.O_RDONLY)
        self._home = [_membership(directory) for directory in home]
        self._network = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._view = os.open("/proc/self/ns/mnt", os.O_RDONLY)

    def start(self, order: Order, join: list[str]) -> Spawned:
        """`join`: directories of the groups. Raises Failed; nothing runs then. Where the agent cannot return
        to what is its own, it ends: it would run on under the limits of a job, and be killed with it."""
        mask = os.umask(0o022)
        try:
            return self._born(order, join)
        finally:
            os.umask(mask)
            try:
                self._return(order)
            except OSError as error:
                why = f"after a start the agent cannot return to its own groups or network: {error}\n"
                os.write(2, why.encode())
                os._exit(STRAYED)

    def _born(self, order: Order, join: list[str]) -> Spawned:
        """Leaves the agent in the task's groups and network, as its user."""
        step = "join its cgroup"
        try:
            for directory in join:
                _enter(directory)
            if order.network is not None:
                if order.network.user >= 0:
                    return Spawned(_forked(order), -1)
                step = "enter the network of its node"
                order.network.enter()
            if order.view >= 0:
                step = "enter its view of the files"
                linux.setns(order.view, linux.CLONE_NEWNS)
                for mount, path in order.mounts:
                    step = f"mount {path}"
                    linux.move_mount(mount, path)
            step = f"enter the directory {order.cwd!r}"
            if order.uid:
                os.setresgid(order.uid, order.uid, 0)
                os.setresuid(0, order.uid, 0)  # a real id of root: nobody of that uid may signal us yet
            os.chdir(order.cwd)
            step = f"run {order.argv[0]!r}"
            if order.uid:
                os.setresuid(order.uid, order.uid, 0)
            return Spawned(self._spawn(order), -1)
        except Failed:
            raise
        except OSError as error:
            raise Failed(f"could not {step}: {os.strerror(error.errno or 0)}") from None

    def _return(self, order: Order) -> None:
        if order.view >= 0:
            linux.setns(self._view, linux.CLONE_NEWNS)
        os.chdir("/")
        if order.uid:
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)
        for membership in self._home:
            os.write(membership, b"0")
        if order.network is not None and order.network.user < 0:
            linux.setns(self._network, linux.CLONE_NEWNET)

    def _spawn(self, order: Order) -> int:
        streams = [(self._null, 0), (order.log, 1), (order.log, 2)]
        streams += [(fd, number) for number, fd in order.handed.items()]
        return os.posix_spawn(
            _program(order),
            order.argv,
            order.env,
            file_actions=[(os.POSIX_SPAWN_DUP2, *stream) for stream in streams],
            setsid=True,
            setsigdef=DEFAULT_SIGNALS,
        )


def _program(order: Order) -> str:
    """Its path. A bare name is looked up on the PATH that the process will have."""
    name = order.argv[0]
    folders = [] if "/" in name else order.env.get("PATH", os.defpath).split(os.pathsep)
    return next((p for p in (f"{folder}/{name}" for folder in folders) if os.path.isfile(p)), name)


def _membership(directory: str) -> int:
    return os.open(f"{directory}/cgroup.procs", os.O_WRONLY)


def _enter(directory: str) -> None:
    membership = _membership(directory)
    try:
        os.write(membership, b"0")
    finally:
        os.close(membership)


def _forked(order: Order) -> int:
    """By fork and exec; what goes wrong before the exec is raised here."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        enter(order, writer)
    os.close(writer)
    said = b""
    while data := os.read(reader, 4096):
        said += data
    os.close(reader)
    if said:
        os.waitpid(pid, 0)
        raise Failed(said.decode(errors="replace").removeprefix("failed ").strip())
    return pid


def shepherded(order: Order) -> Spawned:
    reader, writer = os.pipe()
    agent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _shepherd(order, writer, agent)
        finally:
            os._exit(70)
    os.close(writer)
    os.set_blocking(reader, False)
    return Spawned(pid, reader)


def enter(order: Order, report: int) -> NoReturn:
    """In the child: take on every limit, then become the job. A failure is one line on `report`, and exit
    127."""
    step = "start"
    try:
        os.setsid()
        step = "redirect its output"
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(order.log, 1)
        os.dup2(order.log, 2)
        for number, fd in order.handed.items():
            os.dup2(fd, number)
        os.umask(0o022)
        step = "enter the network of its node"
        if order.network is not None:
            order.network.enter()
        step = f"become uid {order.uid}"
        if order.uid:
            os.setgroups([])
            os.setresgid(order.uid, order.uid, order.uid)
            os.setresuid(order.uid, order.uid, order.uid)
        step = f"enter the directory {order.cwd!r}"
        os.chdir(order.cwd)
        for number in DEFAULT_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        step = f"run {order.argv[0]!r}"
        os.execvpe(order.argv[0], order.argv, order.env)
    except BaseException as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        os.write(report, f"failed could not {step}: {why}\n".encode()[:4000])
    finally:
        os._exit(127)


def _shepherd(order: Order, writer: int, agent: int) -> None:
    """In the child, which stays: run the task, reap all below it, leave when nothing is left."""
    os.setsid()
    linux.become_subreaper()
    network = {order.network.net, order.network.user} if order.network is not None else set[int]()
    wake_reader = _only_signals(keep={writer, order.log, *order.handed.values()} | network)
    linux.signal_on_parent_death(signal.SIGTERM)
    main = os.fork()
    if main == 0:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        enter(order, writer)
    _say(writer, f"pid {main}")
    killing = os.getppid() != agent  # it died before we asked to be told
    while True:
        main_ended = _reap(main, writer)
        if main_ended is None:
            return
        killing = killing or main_ended
        if killing:
            processes.kill(processes.children(os.getpid()))
        select.select([wake_reader], [], [], 0.01 if killing else None)
        killing = _told_to_kill(wake_reader) or killing


def keep_only(descriptors: set[int]) -> None:
    """In a fork: drops every descriptor of the agent's but these (below 0: none), its lock and socket above
    all."""
    lowest = 3
    for fd in sorted(fd for fd in descriptors if fd >= lowest):  # to -1, closerange closes them all
        os.closerange(lowest, fd)
        lowest = fd + 1
    os.closerange(lowest, 65536)


def _only_signals(keep: set[int]) -> int:
    """Drops the agent's descriptors and turns signals into bytes."""
    keep_only(keep)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def _reap(main: int, writer: int) -> bool | None:
    """Reaps what is dead. None: no child is left at all; else whether the main process has just ended."""
    ended = False
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return ended
        if pid == main:
            _say(writer, f"status {status}")
            ended = True


def _say(writer: int, text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the agent is dead: nobody listens, and the killing goes on
        os.write(writer, f"{text}\n".encode())


def _told_to_kill(reader: int) -> bool:
    try:
        return signal.SIGTERM in os.read(reader, 4096)
    except BlockingIOError:
        return False
