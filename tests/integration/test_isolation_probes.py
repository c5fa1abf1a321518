"""Every tier attacked: what a job can do to its neighbour, its node, the server and the host.

Each attack names the limits that stop it. A tier blocks exactly those attacks for which its own report says
that one of these limits is enforced: no more is promised, and no less is given.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import probe_attacks
import pytest
from containergroups import Groups, container, python
from jobserver import JobServer

from pidspace import host_pids
from tidemill.sandbox import disk, init
from tidemill.server import launch

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: one of the tiers is root's"),
]

ROOT = Path(__file__).resolve().parents[2]
UID = 391_001  # the user made for the tiers without root
ALWAYS: tuple[str, ...] = ()  # by the host's own permissions, or by no_new_privs

# Attack -> the limits of which each stops it. ALWAYS: stopped whatever the report says.
STOPPED_BY: dict[str, tuple[str, ...]] = {
    "read_anothers_job_file": ("uid", "files"),
    "read_anothers_log": ("uid", "files"),
    "list_the_nodes": ("uid", "home"),
    "read_the_signing_key": ("uid", "home"),
    "read_the_database": ("uid", "home"),
    "read_stored_blobs": ("uid", "home"),
    "write_into_the_environments": ("uid", "home"),
    "command_its_own_agent": ("uid", "home"),
    "read_a_file_of_the_host_that_everyone_may": ("files",),
    "write_where_everyone_may": ("files",),
    "write_into_usr": ALWAYS,
    "read_the_shadow_file": ALWAYS,
    "learn_the_users_of_the_host": ("files",),
    "find_devices_of_the_host": ("files",),
    "read_a_shared_memory_file": ("files",),
    "see_anothers_process": ("namespaces",),
    "read_anothers_environment": ("uid", "namespaces"),
    "signal_anothers_process": ("uid", "namespaces"),
    "trace_anothers_process": ("uid", "namespaces"),
    "signal_its_agent": ("uid", "namespaces"),
    "signal_the_server": ("uid", "namespaces"),
    "read_the_server_s_environment": ("uid", "namespaces"),
    "write_into_the_first_process": ALWAYS,
    "trace_the_first_process": ALWAYS,
    "attach_sysv_shared_memory": ("namespaces",),
    "learn_the_host_s_name": ("namespaces",),
    "become_root_by_a_user_namespace": ("syscalls",),
    "become_root_by_clone": ("syscalls",),
    "mount_something": ALWAYS,
    "open_a_packet_socket": ALWAYS,
    "use_the_kernel_s_keyring": ("syscalls",),
    "load_a_bpf_program": ("syscalls",),
    "start_io_uring": ("syscalls",),
    "hold_capabilities": ALWAYS,
    "gain_by_set_uid": ALWAYS,
    "change_the_kernel_s_settings": ALWAYS,
    "leave_its_cgroup": ALWAYS,
    "connect_to_an_abstract_socket": ("network",),
    "connect_to_anothers_port": ("network",),
    "connect_to_a_service_of_the_host": ("network",),
}
TIERS = {  # -> (uid of the server, --isolation, the level that its nodes report)
    "full": (0, "full", "full"),
    "plain-as-root": (0, "plain", "plain"),
    "rootless": (UID, "rootless", "rootless"),
    "plain": (UID, "plain", "plain"),
}
BOOT = """
import json, os, sys
from tidemill.sandbox import view
uid, binds, argv = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
if uid:
    view.enter([view.Bind(path, writable) for path, writable in binds])
    os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
os.execv(sys.executable, [sys.executable, "-m", "tidemill.server.control", *argv])
"""


class TierServer(JobServer):
    """A server of one tier, started as its user; the user reaches what it needs although it lies in folders
    of root."""

    def __init__(self, home: Path, uid: int, isolation: str) -> None:
        super().__init__(home)
        self.uid, self.isolation = uid, isolation

    def start(self) -> float:
        binds = [(str(ROOT), False), (sys.base_prefix, False), (sys.prefix, False), (str(self.home), True)]
        read_end, write_end = os.pipe()
        ports = [word for name in ("https", "http", "data") for word in (f"--{name}-port", "0")]
        argv = ["--home", str(self.home), "--isolation", self.isolation, *ports, "--ready-fd", str(write_end)]
        environ = {**os.environ, "HOME": str(self.home), "PYTHONPATH": str(ROOT / "src")}
        with open(self.home.parent / "control.out", "wb") as out:
            subprocess.Popen(
                [sys.executable, "-c", BOOT, str(self.uid), json.dumps(binds), *argv],
                pass_fds=[write_end],
                stdout=out,
                stderr=out,
                env=environ,
                start_new_session=True,
            )
        os.close(write_end)
        said = launch._read_line(read_end, 60)
        os.close(read_end)
        assert said, (self.home.parent / "control.out").read_text()
        self.state = said["ready"]
        return 0.0


@pytest.fixture(scope="module", params=list(TIERS))
def tier(request: pytest.FixtureRequest) -> Iterator[tuple[str, TierServer]]:
    uid, isolation, _ = TIERS[request.param]
    if isolation != "plain" and shutil.which("bwrap") is None:
        message = "bubblewrap is not installed (apt install bubblewrap)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="tidemill-probes-"))  # below /tmp: a made user must get there
    folder.chmod(0o755)
    home = folder / "home"
    home.mkdir(mode=0o700)
    os.chown(home, uid, uid)
    server = TierServer(home, uid, isolation)
    try:
        server.start()
        yield request.param, server
    finally:
        server.end()
        for work in home.glob("nodes/*/work"):
            disk.detach(str(work))
        shutil.rmtree(folder, ignore_errors=True)


def job(server: JobServer, name: str, role: str, compute: str, target: dict) -> str:
    """Submits a job of a team's: its own compute, so its own node."""
    attacks = Path(probe_attacks.__file__).read_text()
    mark = shlex.quote(target["victim_mark"]) if role == "victim" else ""
    command = f"cat > attacks.py <<'END'\n{attacks}\nEND\nexec python3 attacks.py {role} {mark}"
    variables = {"PROBE": json.dumps(target)}
    on = {"computeId": f"{server.workspace}/computes/{compute}"}
    return server.submit(name, command, environmentVariables=variables, **on)


def host_allows(attack: str) -> bool:
    """Of what a host may forbid all its users: tried here, outside of any job."""
    if attack == "trace_anothers_process":
        scope = Path("/proc/sys/kernel/yama/ptrace_scope")
        return not scope.exists() or scope.read_text().strip() == "0"
    if STOPPED_BY[attack] != ("syscalls",):
        return True
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
        os._exit(0 if probe_attacks.attempt(probe_attacks.ATTACKS[attack]) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


ITS_OWN_NODE = """
import json, os
target = json.loads(os.environ["PROBE"])
node = os.getcwd().split("/nodes/")[1].split("/")[0]
target |= {"node": node, "agent_sock": f"{target['home']}/nodes/{node}/agent/sock"}
os.environ["PROBE"] = json.dumps(target)
"""


def runs_runc() -> bool:
    if os.environ.get("CI") == "true":
        assert shutil.which("runc"), "runc is not installed (tests/system-packages.sh)"
    return bool(shutil.which("runc") and init.program(os.uname().machine))


def by_runc(server: JobServer, target: dict) -> dict[str, bool]:
    """The same attacks out of a container group of runc."""
    groups = Groups(server)
    groups.tags = {"tidemill.runtime": "runc"}
    code = ITS_OWN_NODE + Path(probe_attacks.__file__).read_text().replace(
        "from __future__ import annotations", ""
    )
    probe = [{"name": "PROBE", "value": json.dumps(target)}]
    groups.put(
        "attacker",
        container("a", "python3", "-c", code, "attacker", environmentVariables=probe),
        restartPolicy="Never",
    )
    groups.until("attacker", lambda found: found["instanceView"]["state"] in ("Succeeded", "Failed"))
    said = groups.logs("attacker", "a")
    groups.call("DELETE", "attacker")
    groups.until_gone("attacker")
    return json.loads(said)


def node_of(server: JobServer, name: str) -> str:
    return server.job(name)["attempts_list"][-1]["nodes"][0]


def test_a_tier_blocks_what_its_report_says_and_nothing_else(tier, tmp_path: Path) -> None:
    name, server = tier
    outside = Path(tempfile.mkdtemp(prefix="tidemill-outside-"))
    outside.chmod(0o1777)
    (outside / "file").write_text("the host's")
    (outside / "file").chmod(0o644)
    listener = socket.create_server(("127.0.0.1", 0))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    unique = f"{name}-{os.getpid()}"
    target = {
        "home": str(server.home),
        "victim_mark": f"victim-{unique}",
        "abstract": f"tidemill-probe-{unique}",
        "victim_port": port,
        "shm_name": f"tidemill-probe-{unique}",
        "shm_key": 0x71DE0000 + os.getpid() % 0xFFFF,
        "hostname": socket.gethostname(),
        "host_port": listener.getsockname()[1],
        "host_file": str(outside / "file"),
        "host_folder": str(outside),
        "server_pid": server.state["pid"],
    }
    for team in ("a", "b"):
        server.cluster(f"team-{team}", high=1, idle="PT30M")  # its node is looked at in the end
    try:
        job(server, "victim", "victim", "team-a", target)
        _, pid, space = server.until_log("victim", "ready").split()
        victim_node = node_of(server, "victim")
        attempt = next((server.home / "nodes" / victim_node / "work").glob("[!.]*"))
        (victim_pid,) = host_pids([int(pid)], {space})
        server.submit("warm", "true", computeId=f"{server.workspace}/computes/team-b")
        server.wait("warm")
        node = node_of(server, "warm")
        target |= {
            "victim_dir": str(attempt / "code"),
            "victim_pid": victim_pid,
            "node": node,
            "agent_pid": server.nodes()[node],
            "agent_sock": str(server.home / "nodes" / node / "agent" / "sock"),
        }
        job(server, "attacker", "attacker", "team-b", target)
        done = server.wait("attacker")
        assert done["status"] == "Completed", (done["error"], server.log("attacker"))
        succeeded = json.loads(server.log("attacker"))
        contained = by_runc(server, target) if name == "full" and runs_runc() else None
        (attempt / "code" / "end").touch()
        assert server.wait("victim")["status"] == "Completed"
    finally:
        listener.close()
        shutil.rmtree(outside)
    limits = server.native("computes/team-b")["nodes_list"][0]["limits"]
    assert set(succeeded) == set(STOPPED_BY)
    expected = {
        attack: bool(by) and host_allows(attack) and not any(limits[limit]["enforced"] for limit in by)
        for attack, by in STOPPED_BY.items()
    }
    assert succeeded == expected
    if name == "full":
        assert not any(succeeded.values())
        if contained is not None:
            assert set(contained) == set(STOPPED_BY)
            assert [attack for attack, done in contained.items() if done] == []
    lines = [entry["message"] for entry in done["timeline"] if entry["message"].startswith("Isolation: ")]
    assert lines
    assert lines[0].startswith(f"Isolation: {TIERS[name][2]}.")
    for limit, line in limits.items():
        assert line["enforced"] or limit in lines[0], (
            f"{limit} is not enforced, and the job's time line is silent"
        )


def test_nothing_of_a_job_outlives_it(tier) -> None:
    """Orphans in sessions of their own, with an environment wiped clean."""
    _, server = tier
    mark = f"sleep {70_000 + os.getpid() % 10_000}"
    escape = f"(setsid env -i {mark} & ) ; (setsid setsid {mark} & ); sleep 0.2; echo left"
    server.submit("escapes", escape, computeId=f"{server.workspace}/computes/team-b")
    assert server.wait("escapes")["status"] == "Completed"
    assert subprocess.run(["pgrep", "-xf", mark], capture_output=True).stdout == b""


def test_an_end_is_told_as_it_was(tier) -> None:
    """In each tier the same: a code is the command's own, a signal is named, and no core is left."""
    _, server = tier
    where = {"computeId": f"{server.workspace}/computes/team-b"}
    for name, command, code, number in (
        ("code-137", "exit 137", 137, None),
        ("code-139", "ulimit -c unlimited 2>/dev/null; sh -c 'kill -SEGV $$'; exit $?", 139, None),
        ("killed", "test $(ulimit -Hc) = 0 && kill -KILL $$", None, 9),
    ):
        server.submit(name, command, **where)
        assert server.wait(name)["status"] == "Failed"
        attempt = server.job(name)["attempts_list"][-1]
        assert (attempt["exit_code"], attempt["signal"]) == (code, number), server.log(name)


def test_somebody_who_looks_inside_is_the_job(tier) -> None:
    name, server = tier
    where = f"looked-at-{name}"
    command = "id -u; readlink /proc/self/ns/mnt /proc/self/ns/net; echo up; sleep 600"
    server.cluster("visited", high=1)
    server.submit(where, command, computeId=f"{server.workspace}/computes/visited")
    said = server.until_log(where, "up").removesuffix("up\n")
    server.until_state(where, "Running")
    inside = "id -u; readlink /proc/self/ns/mnt /proc/self/ns/net"
    done = server.cli("ssh", where, "--", "sh", "-c", inside)
    assert (done.stdout, done.stderr, done.returncode) == (said, "", 0)
    server.cancel(where)
    server.wait(where)


def test_a_container_group_where_nodes_have_a_network_of_their_own(tier) -> None:
    name, server = tier
    groups = Groups(server)
    code = "open('/room/x', 'w').write('kept'); print(open('/room/x').read(), open('/keys/k').read())"
    mounts = [{"name": "room", "mountPath": "/room"}, {"name": "keys", "mountPath": "/keys"}]
    volumes = [{"name": "room", "emptyDir": {}}, {"name": "keys", "secret": {"k": "aHVzaA=="}}]
    given = {"containers": [python("one", code, volumeMounts=mounts)], "volumes": volumes}
    body = {"properties": {**given, "restartPolicy": "Never"}}
    status, answer = groups.call("PUT", "tried", body)
    if "plain" in name:
        assert (status, answer["error"]["code"]) == (400, "NetworkMissing")
        return
    assert status == 201, answer
    groups.until_state("tried", "Succeeded")
    assert groups.logs("tried", "one") == "kept hush\n"
    groups.call("DELETE", "tried")
    groups.until_gone("tried")
