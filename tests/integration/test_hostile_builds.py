"""Packages that attack the server while they are installed: through the real builder, offline."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import hostilebuilds
import pytest
from hostilebuilds import everything, found
from sourcepackages import source
from wheelmaker import wheel

from tidemill.domain.errors import InvalidRequest
from tidemill.environments.box import GROUPS
from tidemill.environments.builder import EnvironmentBuilder
from tidemill.environments.spec import EnvironmentSpec
from tidemill.sandbox import cgroups, tiers

place, make = hostilebuilds.place, hostilebuilds.make


async def test_code_of_a_package_finds_nothing_of_the_server(
    place: Path, make: Callable[..., EnvironmentBuilder]
):
    (place / "home" / "envs" / "other").mkdir()
    (place / "home" / "envs" / "other" / "team.txt").write_text("of another team")
    outside = place / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0tidemill-{os.getpid()}")
        abstract.listen()
        server.setblocking(False)
        source(
            place / "wheels",
            "tmspy",
            f"""
def tried(do):
    try:
        return repr(do())
    except BaseException as error:
        return "refused " + type(error).__name__ + " " + str(error)[:60]
def connect(family, to):
    with socket.socket(family) as s:
        s.settimeout(60)
        s.connect(to)
        return "connected"
def asked():
    with socket.create_connection(("127.0.0.1", 3128), 60) as s:
        s.sendall(b"CONNECT 127.0.0.1:{server.getsockname()[1]} HTTP/1.1\\r\\n\\r\\n")
        return s.recv(100).decode()
def attack():
    home = {str(place / "home")!r}
    return dict(
        secret=tried(lambda: open(home + "/secrets/signing.pem").read()),
        team=tried(lambda: open(home + "/envs/other/team.txt").read()),
        envs=tried(lambda: [n for n in os.listdir(home + "/envs") if not n.startswith(".tmp-")]),
        outside=tried(lambda: open({str(outside)!r} + "/written", "w").write("x")),
        cache=tried(lambda: open({str(place / "cache")!r} + "/poison", "w").write("x")),
        root=tried(lambda: open(sorted(set(os.listdir("/root")) - set({Path(sys.base_prefix).parts!r}))[0])),
        passwd=tried(lambda: [l for l in open("/etc/passwd") if l.split(":")[0] not in ("root", "nobody")]),
        shadow=tried(lambda: open("/etc/shadow").read()),
        environment=sorted(os.environ),
        processes=[p for p in os.listdir("/proc") if p.isdigit() and os.path.exists(f"/proc/{{p}}/cmdline")
                   and "pytest" in open(f"/proc/{{p}}/cmdline").read()],
        loopback=tried(lambda: connect(socket.AF_INET, ("127.0.0.1", {server.getsockname()[1]}))),
        abstract=tried(lambda: connect(socket.AF_UNIX, chr(0) + "tidemill-{os.getpid()}")),
        proxied=tried(asked),
        sysctl=tried(lambda: open("/proc/sys/kernel/core_pattern", "w").write("|/tmp/x")),
        namespace=tried(lambda: os.unshare(0x10000000) if hasattr(os, "unshare") else subprocess.run(
            ["unshare", "-U", "true"], check=True, capture_output=True)),
        usr=tried(lambda: open("/usr/written", "w")),
        uid=os.getuid(),
        capabilities=[l.split()[1] for l in open("/proc/self/status") if l.startswith("CapEff")],
        locks=[os.readlink("/proc/self/fd/" + f) for f in os.listdir("/proc/self/fd")
               if os.path.exists("/proc/self/fd/" + f)],
    )
""",
        )
        log: list[str] = []
        built = await make().ensure(EnvironmentSpec(pip=("tmspy",)), log.append)
        saw = found(built.path, "tmspy")
        with pytest.raises(BlockingIOError):
            server.accept()
    assert "tmspy==1.0 has no wheel for this Python, so it is built from source in a sandbox." in log
    for what in (
        "secret",
        "team",
        "outside",
        "root",
        "shadow",
        "loopback",
        "abstract",
        "sysctl",
        "usr",
        "cache",
    ):
        assert str(saw[what]).startswith("refused"), (what, saw[what])
    assert str(saw["namespace"]).startswith("refused"), saw["namespace"]
    assert "403" in str(saw["proxied"]), saw["proxied"]
    assert (saw["passwd"], saw["envs"], saw["processes"]) == ("[]", "['.python']", [])
    assert "SECRET_OF_THE_SERVER" not in saw["environment"]  # type: ignore[operator]
    assert (saw["uid"], saw["capabilities"]) == (65534, ["0000000000000000"])
    assert not [path for path in saw["locks"] if ".locks" in path]  # type: ignore[union-attr]
    assert not list(outside.iterdir())
    assert {path.lstat().st_uid for path in built.path.rglob("*")} == {os.geteuid()}


async def test_nothing_that_another_build_reads_is_written(
    place: Path, make: Callable[..., EnvironmentBuilder]
):
    """The cache that builds share, and other builds' folders, are as they were."""
    wheel(place / "wheels", "tmgood", "1.0")
    builder = make()
    good = await builder.ensure(EnvironmentSpec(pip=("tmgood",)), lambda _: None)
    before = everything(place / "cache"), everything(good.path)
    source(
        place / "wheels",
        "tmpoison",
        """
def attack():
    caches = [os.environ["UV_CACHE_DIR"]]
    changed = 0
    for cache in caches:
        for folder, _, files in os.walk(cache):
            for file in files:
                try:
                    with open(os.path.join(folder, file), "ab") as f:
                        f.write(b"poison")
                    changed += 1
                except OSError:
                    pass
    return dict(changed=changed, caches=caches)
""",
    )
    with pytest.raises(InvalidRequest, match="RECORD"):  # its own cache, and its own build
        await builder.ensure(EnvironmentSpec(pip=("tmpoison", "tmgood")), lambda _: None)
    after = everything(place / "cache"), everything(good.path)
    changed = {p for p in before[0] if before[0][p] != after[0].get(p)}
    assert (changed, after[1]) == (set(), before[1])
    assert not list((place / "home" / "envs").glob(".tmp-*"))
    assert (await builder.ensure(EnvironmentSpec(pip=("tmgood==1.0",)), lambda _: None)).lock_text


async def test_a_long_line_hides_no_failure(place: Path, make: Callable[..., EnvironmentBuilder]):
    attack = """
def attack():
    sys.stdout.write("x" * (3 << 20))
    sys.stdout.flush()
    raise SystemExit("no compiler")
"""
    source(place / "wheels", "tmlong", attack)
    log: list[str] = []
    with pytest.raises(InvalidRequest, match=r"tmlong==1\.0 has no wheel .* could not be built") as caught:
        await make().ensure(EnvironmentSpec(pip=("tmlong",)), log.append)
    assert "no compiler" in caught.value.message
    assert len(caught.value.message) < 8000
    assert sum(line.count("x") for line in log) > 3 << 20


async def test_what_it_leaves_behind_is_killed(place: Path, make: Callable[..., EnvironmentBuilder]):
    mark = f"left-{os.getpid()}"
    source(
        place / "wheels",
        "tmstay",
        f"""
def attack():
    for _ in range(3):
        subprocess.Popen(["sh", "-c", "trap '' TERM HUP; sleep 600; : {mark}"], start_new_session=True,
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return dict(left=3)
""",
    )
    built = await make().ensure(EnvironmentSpec(pip=("tmstay",)), lambda _: None)
    assert found(built.path, "tmstay") == {"left": 3}
    assert processes_with(mark) == []
    assert groups_left() == []


async def test_a_cancelled_build_leaves_no_process(place: Path, make: Callable[..., EnvironmentBuilder]):
    mark = f"hang-{os.getpid()}"
    source(
        place / "wheels",
        "tmhang",
        f"""
def attack():
    child = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 600; : {mark}"], start_new_session=True)
    child.wait()
""",
    )
    builder = make()
    work = asyncio.create_task(builder.ensure(EnvironmentSpec(pip=("tmhang",)), lambda _: None))
    deadline = time.monotonic() + 60
    while not processes_with(mark):
        assert time.monotonic() < deadline, "the build did not come so far"
        assert not work.done(), work.exception()
        await asyncio.sleep(0.05)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    deadline = time.monotonic() + 60
    while processes_with(mark):
        assert time.monotonic() < deadline, "processes of a cancelled build live on"
        await asyncio.sleep(0.05)
    assert not list((place / "home" / "envs").glob(".tmp-*"))
    assert groups_left() == []


@pytest.mark.kill
async def test_a_killed_server_takes_the_build_with_it(place: Path, make: Callable[..., EnvironmentBuilder]):
    mark = f"orphan-{os.getpid()}"
    source(
        place / "wheels",
        "tmorphan",
        f"""
def attack():
    subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 600; : {mark}"], start_new_session=True).wait()
""",
    )
    code = (
        "import asyncio, pathlib\n"
        "from tidemill.environments.builder import EnvironmentBuilder\n"
        "from tidemill.environments.spec import EnvironmentSpec\n"
        f"b = EnvironmentBuilder(pathlib.Path({str(place / 'home' / 'envs')!r}), lambda: 0,\n"
        f"    allow_download=False, cache_dir=pathlib.Path({str(place / 'cache')!r}))\n"
        "asyncio.run(b.ensure(EnvironmentSpec(pip=('tmorphan',)), print))\n"
    )
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    deadline = time.monotonic() + 60
    while not processes_with(mark):
        assert time.monotonic() < deadline, "the build did not come so far"
        assert server.returncode is None
        await asyncio.sleep(0.05)
    server.kill()
    await server.wait()
    deadline = time.monotonic() + 60
    builder = make()
    while processes_with(mark) or builder.sweep() == 0:
        assert time.monotonic() < deadline, "processes of a killed server's build live on"
        await asyncio.sleep(0.05)
    assert not list((place / "home" / "envs").glob(".tmp-*"))
    assert [path for path in cgroups.stale(GROUPS) if path.endswith(f"-{server.pid}")] == []


@pytest.mark.root
async def test_memory_is_bounded(
    place: Path, make: Callable[..., EnvironmentBuilder], monkeypatch: pytest.MonkeyPatch
):
    if os.geteuid() != 0:
        pytest.skip("needs root: control groups")
    monkeypatch.setattr("tidemill.environments.box._memory", lambda: 1 << 30)
    source(
        place / "wheels",
        "tmfill",
        """
def attack():
    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            kept = []
            while True:
                kept.append(b"x" * (16 << 20))
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    raise SystemExit("FILLED")
""",
    )
    with pytest.raises(InvalidRequest, match="more than the 1 GiB of memory that a build may have"):
        await make().ensure(EnvironmentSpec(pip=("tmfill",)), lambda _: None)
    assert groups_left() == []


async def test_processes_are_bounded(place: Path, make: Callable[..., EnvironmentBuilder]):
    source(
        place / "wheels",
        "tmfork",
        """
import signal
def attack():
    pids = []
    try:
        while len(pids) < 6000:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            pids.append(pid)
        return dict(stopped="")
    except OSError as error:
        return dict(stopped=str(error), number=len(pids))
    finally:
        for pid in pids:
            os.kill(pid, 9)
""",
    )
    built = await make().ensure(EnvironmentSpec(pip=("tmfork",)), lambda _: None)
    assert "temporarily unavailable" in str(found(built.path, "tmfork")["stopped"])


def processes_with(mark: str) -> list[str]:
    hits = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                hits.append(path.parent.name)
        except OSError:
            continue
    return hits


def groups_left() -> list[str]:
    return [path for path in cgroups.stale(GROUPS) if path.rpartition("-")[2] == str(os.getpid())]


AS_A_USER = """
import json, os, sys
from tidemill.sandbox import view
uid, binds, argv = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
view.enter([view.Bind(path, writable) for path, writable in binds])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
os.execv(sys.executable, [sys.executable, "-m", "pytest", *argv])
"""
UID = 64_004


@pytest.mark.root
@pytest.mark.timeout(400)
def test_the_same_on_a_server_of_an_ordinary_user():
    """Attacks of this module, once more, by a user whom nothing but user namespaces helps."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the tests above ran as an ordinary user")
    if why := tiers.sandboxing(UID).why_not:
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    folder = tempfile.mkdtemp(prefix="tidemill-user-")
    os.chown(folder, UID, UID)
    root = str(Path(__file__).resolve().parents[2])
    binds = [(root, False), (sys.base_prefix, False), (sys.prefix, False), (folder, True)]
    argv = [__file__, "-q", "-p", "no:cacheprovider", "--basetemp", f"{folder}/pytest", "--timeout", "300"]
    argv += ["-k", "finds_nothing or another_build_reads or leaves_behind or processes_are"]
    environ = {**os.environ, "HOME": folder, "PYTHONPATH": f"{root}/src", "PYTHONDONTWRITEBYTECODE": "1"}
    environ.pop("TMPDIR", None)
    try:
        done = subprocess.run(
            [sys.executable, "-c", AS_A_USER, str(UID), json.dumps(binds), *argv],
            capture_output=True,
            text=True,
            timeout=360,
            env=environ,
            cwd=root,
            check=False,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert "4 passed" in done.stdout, done.stdout + done.stderr
