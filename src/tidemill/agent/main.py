"""Start of an agent: `python -I -S …/tidemill/agent/main.py NODE_DIR`.

NODE_DIR/agent/node.json says what the node is (written by the engine). The process forks away from its
starter, takes the node's lock, makes its limits and its view, and says one line on standard output: `ready`,
or why not. Only `tidemill.agent` and `tidemill.sandbox` are imported, and nothing after the start.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import sys
import time

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from tidemill.agent import boxed, contained, protocol
from tidemill.agent.journal import Journal
from tidemill.agent.network import Network
from tidemill.agent.place import Place
from tidemill.agent.server import AgentServer
from tidemill.sandbox import cgroups, cpuset, disk, linux, processes, view
from tidemill.sandbox.network import NotAvailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tidemill.agent.egress import Proxy

    # groups, why some are missing, and the children that try to join them
    Tried = tuple[cgroups.Groups, dict[str, str], dict[str, int]]


def main(node_dir: str) -> None:
    _fork_away()
    # Whoever started us may have left descriptors open (libuv does): none of them is ours to hold for life.
    os.closerange(3, 65536)
    directory = os.open(os.path.join(node_dir, "agent"), os.O_RDONLY | os.O_DIRECTORY)
    mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    try:
        server = _prepare(os.path.abspath(node_dir), directory)
    except Exception as error:
        os.write(1, f"{type(error).__name__}: {error}\n".encode())
        raise
    _say_ready()
    server.serve()
    if server.homeless:
        _unmount(mounts, os.path.abspath(node_dir))


def _prepare(node_dir: str, directory: int) -> AgentServer:
    os.umask(0o077)
    os.chdir("/")
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    _take_lock(directory)
    config = _read_config(directory)
    tried = _try_groups(config)
    way_out = _way_out(config)
    work_path = os.path.join(node_dir, "work")
    on_disk = _work_disk(config, f"{node_dir}/disk.img", work_path)
    work = os.open(work_path, os.O_RDONLY | os.O_DIRECTORY)
    listener = _listen(directory)
    journal = Journal(directory)
    linux.become_subreaper()
    groups, limits, uid, box = isolate(config, node_dir, tried)
    limits["disk"], limits["core"] = on_disk, _no_core_dumps()
    network, limits["network"] = _own_network(config, way_out)
    linux.no_new_privileges()  # of all it starts
    hello = {
        "version": protocol.VERSION,
        "node": config["node_id"],
        "pid": os.getpid(),
        "uid": uid,
        "uids": config["uids"] if uid else 0,
        "groups": groups.paths,
        "limits": limits,
        "network": network.entry() if network else None,
    }
    journal.write("node", hello)
    marker = processes.marker(config["home_id"], config["node_id"], "")
    runc = contained.Runc(config, work_path, groups, uid, box)
    node_id, memory = config["node_id"], config["memory"]
    place = Place(node_id, marker, work, work_path, groups, uid, memory, box, runc, network)
    cpus = cpuset.CpuSet(config["group_name"], groups.kill) if "cpu" in groups.paths else None
    return AgentServer(listener, place, journal, hello, float(config.get("look_s", 30.0)), cpus)


def _work_disk(config: dict[str, Any], image: str, work_path: str) -> dict[str, Any]:
    """Mounts it; what is enforced. Before the view is made: the host sees the mount, too."""
    if config.get("disk_why"):
        return _line(False, "", config["disk_why"])
    try:
        disk.attach(image, work_path, config["disk"])
    except disk.NotAvailable as error:
        return _line(False, "", f"the work directory lies on the host's disk: {error}")
    return _line(True, f"an ext4 file system of {config['disk'] / 2**30:.4g} GiB")


def _no_core_dumps() -> dict[str, Any]:
    """Of this process and all that it starts. 0 would forbid files only; at 1, which is too small for a file,
    the kernel hands nothing to a crash handler either (fs/coredump.c)."""
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    return _line(True, "rlimit: no core dumps, neither in files nor with the host's crash handler")


def _way_out(config: dict[str, Any]) -> Callable[[], Proxy] | None:
    """Loads what few nodes need. Before the view is made, which has no files of ours."""
    if not config["egress"]:
        return None
    from tidemill.agent import egress as proxies
    from tidemill.sandbox import egress

    policy = egress.parse(config["egress"])
    return None if policy.closed else lambda: proxies.Proxy(policy)


def _own_network(
    config: dict[str, Any], way_out: Callable[[], Proxy] | None
) -> tuple[Network | None, dict[str, Any]]:
    if config["network_why"]:
        return None, _line(False, "", config["network_why"])
    try:
        ids = config["home_id"], config["node_id"]
        network = Network(config["services"], config["relay_uid"], way_out, *ids)
    except NotAvailable as error:
        return None, _line(False, "", f"jobs share the host's network: no network namespace ({error})")
    by = "a network namespace with nothing but a loopback and the service"
    return network, _line(True, by if way_out is None else f"{by}; HTTP proxy to {config['egress']}")


def isolate(
    config: dict[str, Any], node_dir: str, tried: Tried
) -> tuple[cgroups.Groups, dict[str, Any], int, boxed.Box]:
    """Groups, view, uid and sandbox of the node: (groups, what is enforced, the uid jobs get, the sandbox).
    uid 0 is the agent's own."""
    limits: dict[str, Any] = {}
    work_path = f"{node_dir}/work"
    etc_folder = f"{work_path}/.etc"  # not on the host's disk, where making a dozen files takes milliseconds
    box = boxed.Box(config, etc_folder, config["uid"] if os.geteuid() == 0 else 0)
    uid, limits["uid"], limits["home"] = _own_user(config, work_path)
    if uid:
        box.lay(f"{work_path}/.dev")
    limits.update(_sandboxed(box, config))
    if box.made:
        limits["home"] = limits["files"]
    groups, missing = _joinable(*tried)
    limits.update(cgroups.limit(groups, config["cpu_milli"], config["memory"], missing))
    kill_file = os.path.exists(f"{groups.kill}/cgroup.kill")
    by = ("cgroup v2 cgroup.kill" if kill_file else "cgroup v1") if groups.kill else "a reaper process"
    limits["processes"] = _line(True, by)
    return groups, limits, uid, box


def _sandboxed(box: boxed.Box, config: dict[str, Any]) -> dict[str, Any]:
    if box.made:
        limits = {
            "files": _line(True, "bubblewrap: only what is listed is mounted"),
            "namespaces": _line(True, "bubblewrap: user, PID, IPC and UTS namespaces, a session of its own"),
            "syscalls": _line(True, "seccomp filter, no capabilities, no new privileges"),
        }
        gpu = _line(True, "bubblewrap: device files of allotted GPUs only")
    else:
        limits = {name: _line(False, "", box.why_not) for name in ("files", "namespaces", "syscalls")}
        why = f"a job can change the variable, and device files are not withheld: {box.why_not}"
        gpu = _line(False, "CUDA_VISIBLE_DEVICES", why)
    return {**limits, "gpu": gpu} if config["host_gpus"] else limits


def _own_user(config: dict[str, Any], work_path: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    if os.geteuid() != 0:
        why = f"the server does not run as root, so jobs run as its own user (uid {os.geteuid()})"
        return 0, _line(False, "", why), _line(False, "", why + " and can read what it can")
    if not config["uid"]:
        why = "switched off for this engine"
        return 0, _line(False, "", why), _line(False, "", why)
    binds = [view.Bind(b["path"], bool(b["writable"]), bool(b.get("exact"))) for b in config["binds"]]
    try:
        view.enter([*binds, view.Bind(work_path, writable=True)])
    except view.NotAllowed as error:
        why = f"this host allows no mount namespace ({error}), so jobs run as root"
        return 0, _line(False, "", why), _line(False, "", why)
    os.setgroups([])
    by = "mount namespace; folders closed to others are hidden"
    return (
        config["uid"],
        _line(True, f"uid {config['uid']} of the node's own {config['uids']}, no new privileges"),
        _line(True, by),
    )


def _try_groups(config: dict[str, Any]) -> Tried:
    """Makes the groups and has a child try to join each, because a limit nobody is under is none. Joining
    waits for the kernel (milliseconds each): it goes on while other things are made."""
    if not config["cgroups"]:
        return cgroups.Groups({}), {str(c): "switched off for this engine" for c in cgroups.CONTROLLERS}, {}
    groups, missing = cgroups.create(config["group_name"])
    trying: dict[str, int] = {}
    for use, directory in groups.paths.items():
        probe = _probe(use, directory)
        trying[use] = os.fork()
        if trying[use] == 0:
            try:
                if use == "kill":
                    os.mkdir(probe)
                fd = os.open(f"{probe}/cgroup.procs", os.O_WRONLY)
                os.write(fd, b"0")
                os._exit(0)
            except OSError as error:
                os._exit(error.errno or 1)
    return groups, missing, trying


def _joinable(
    groups: cgroups.Groups, missing: dict[str, str], trying: dict[str, int]
) -> tuple[cgroups.Groups, dict[str, str]]:
    """Only those that could be joined, and why the others are missing."""
    usable: dict[str, str] = {}
    for use, pid in trying.items():
        directory = groups.paths[use]
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if use == "kill":
            cgroups.remove(_probe(use, directory))
        if status == 0:
            usable[use] = directory
        else:
            missing[use] = f"a process could not join {directory}: {os.strerror(status)}"
    return cgroups.Groups(usable), missing


def _probe(use: str, directory: str) -> str:
    return os.path.join(directory, "probe") if use == "kill" else directory


def _unmount(mounts: int, node_dir: str) -> None:
    """Where the home was deleted nobody else will: its work disk, in the mount namespace of the host."""
    with contextlib.suppress(OSError):  # not root: there is none
        linux.setns(mounts)
        disk.detach(f"{node_dir}/work")
        os.rmdir(f"{node_dir}/work")
        os.removedirs(node_dir)  # what could not go while it held a mount


def _line(enforced: bool, by: str, why_not: str = "") -> dict[str, Any]:
    return {"enforced": enforced, "by": by, "why_not": why_not}


def _fork_away() -> None:
    """Twice, so that this process leads no session's terminal and is nobody's child."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)


def _take_lock(directory: int) -> None:
    """The node's lock, held while this process lives; its pid is inside. It is never let go of: the kernel
    does that after all else of a process, so whoever finds the lock free finds nothing of this one."""
    fd = os.open("pid", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=directory)
    for left in range(20, -1, -1):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if left == 0:
                raise RuntimeError("another agent runs this node") from None
            time.sleep(0.01)  # an engine may just be looking whether the lock is free
    os.ftruncate(fd, 0)
    os.write(fd, str(os.getpid()).encode())


def _read_config(directory: int) -> dict[str, Any]:
    with open(os.open("node.json", os.O_RDONLY, dir_fd=directory)) as file:
        return json.load(file)


def _listen(directory: int) -> socket.socket:
    """Bound relative to the directory: a home's path may be longer than a socket address (108 bytes)."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink("sock", dir_fd=directory)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"/proc/self/fd/{directory}/sock")
    listener.listen(16)
    listener.setblocking(False)
    return listener


def _say_ready() -> None:
    """Tells the starter and lets go of its pipe. Standard error stays: the agent's own log file."""
    with contextlib.suppress(OSError):
        os.write(1, b"ready\n")
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


if __name__ == "__main__":
    main(sys.argv[1])
