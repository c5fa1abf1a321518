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
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sourcepackages import source
from wheelmaker import wheel

from tidemill.domain.errors import InvalidRequest, TidemillError
from tidemill.environments.box import GROUPS, Confinement
from tidemill.environments.builder import EnvironmentBuilder
from tidemill.environments.spec import EnvironmentSpec
from tidemill.environments.tree import remove_tree
from tidemill.sandbox import cgroups, tiers


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """home/envs, home/secrets, wheels: as on a server, below a folder that others may enter."""
    if why := tiers.sandboxing(0).why_not:
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="tidemill-hostile-"))
    folder.chmod(0o755)
    (folder / "home").mkdir(mode=0o700)
    (folder / "home" / "secrets").mkdir(mode=0o700)
    (folder / "home" / "secrets" / "signing.pem").write_text("the server's key")
    (folder / "home" / "envs").mkdir()
    (folder / "wheels").mkdir()
    for key in [key for key in os.environ if key.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(key)
    (folder / "uv.toml").write_text(f'no-index = true\nfind-links = ["{folder}/wheels"]\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(folder / "uv.toml"))
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "x")
    yield folder
    remove_tree(folder)


@pytest.fixture
def make(place: Path) -> Callable[..., EnvironmentBuilder]:
    def build(**rules: object) -> EnvironmentBuilder:
        return EnvironmentBuilder(
            place / "home" / "envs",
            lambda: time.time_ns() // 1000,
            allow_download=False,
            cache_dir=place / "cache",
            confinement=Confinement(**rules),  # type: ignore[arg-type]
        )

    return build


def found(built_path: Path, name: str) -> dict[str, object]:
    return json.loads(next(built_path.glob(f"lib/*/site-packages/{name}/found.json")).read_text())


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> (size, time of change), of every file below."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


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
        s.settimeout(3)
        s.connect(to)
        return "connected"
def asked():
    with socket.create_connection(("127.0.0.1", 3128), 5) as s:
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
    deadline = time.monotonic() + 10
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
    deadline = time.monotonic() + 20
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


async def test_a_tree_in_disorder_reaches_nothing(place: Path, make: Callable[..., EnvironmentBuilder]):
    """The environment's own folder replaced by links to the server's files while uv still works in it."""
    source(
        place / "wheels",
        "tmlink",
        f"""
def attack():
    box = os.path.dirname(os.environ["UV_CACHE_DIR"])
    secret = {str(place / "home" / "secrets")!r}
    tree = box + "/tree"
    for name in (".tidemill", "bin/tmlink-say", "pyvenv.cfg"):
        path = os.path.join(tree, name)
        if os.path.exists(path):
            os.rename(path, path + ".old")
        os.symlink(secret + ("" if name == ".tidemill" else "/signing.pem"), path)
    os.mkfifo(tree + "/fifo")
    os.mkdir(tree + "/closed")
    os.chmod(tree + "/closed", 0)
    return dict(done=True)
""",
    )
    built = await make().ensure(EnvironmentSpec(pip=("tmlink",)), lambda _: None)
    secret = place / "home" / "secrets"
    assert [path.name for path in secret.iterdir()] == ["signing.pem"]
    assert (secret / "signing.pem").read_text() == "the server's key"
    assert (secret.stat().st_mode & 0o777, (built.path / "fifo").exists()) == (0o700, False)
    assert not (built.path / ".tidemill").is_symlink()
    assert "version_info" in (built.path / "pyvenv.cfg").read_text()
    assert not (built.path / "pyvenv.cfg").is_symlink()


async def test_a_link_in_the_place_of_the_environment_is_refused(
    place: Path, make: Callable[..., EnvironmentBuilder]
):
    source(
        place / "wheels",
        "tmswap",
        f"""
def attack():
    box = os.path.dirname(os.environ["UV_CACHE_DIR"])
    if os.fork() == 0:
        os.setsid()
        os.closerange(0, 64)
        while True:
            try:
                os.rename(box + "/tree", box + "/gone")
                os.symlink({str(place / "home" / "secrets")!r}, box + "/tree")
                os.unlink(box + "/lock.txt")
                os.symlink({str(place / "home" / "secrets" / "signing.pem")!r}, box + "/lock.txt")
            except OSError:
                pass
            time.sleep(0.001)
    time.sleep(0.2)
    return dict(done=True)
""",
    )
    with pytest.raises(InvalidRequest) as refused:
        await make().ensure(EnvironmentSpec(pip=("tmswap",)), lambda _: None)
    assert "the server's key" not in refused.value.message
    secret = place / "home" / "secrets"
    assert (secret.stat().st_mode & 0o777, [p.name for p in secret.iterdir()]) == (0o700, ["signing.pem"])
    assert not list((place / "home" / "envs").glob(".tmp-*"))


async def test_a_hostile_wheel_runs_nothing_and_leaves_its_folder_alone(
    place: Path, make: Callable[..., EnvironmentBuilder]
):
    """`..` in its names, files outside of its packages, and a `.pth` that would run at Python's start."""
    wheel(place / "wheels", "tmpth", "1.0")
    ran = place / "ran"
    with zipfile.ZipFile(place / "wheels" / "tmpth-1.0-py3-none-any.whl", "a") as file:
        file.writestr("tmpth.pth", f"import os; open({str(ran)!r}, 'w').write('x')\n")
        file.writestr("tmpth-1.0.data/data/pyvenv.cfg", "home = /root\nversion_info = 9.9\n")
        file.writestr("tmpth-1.0.data/data/.tidemill/built.json", "{}")
    built = await make().ensure(EnvironmentSpec(pip=("tmpth",)), lambda _: None)
    assert not ran.exists()
    assert list(built.path.glob("lib/*/site-packages/tmpth/__pycache__/*.pyc"))
    assert str(built.base_prefix) != "/"
    assert "9.9" not in (built.path / "pyvenv.cfg").read_text() + built.python_version

    wheel(place / "wheels", "tmclimb", "1.0")
    with zipfile.ZipFile(place / "wheels" / "tmclimb-1.0-py3-none-any.whl", "a") as file:
        for up in ("../", "../../../", "../../../../../../../../../../../.." + str(place) + "/"):
            file.writestr(f"{up}climbed.txt", "x")
        file.writestr("tmclimb-1.0.data/data/../../../../climbed.txt", "x")
        file.writestr(str(place / "climbed.txt"), "x")
        link = zipfile.ZipInfo("tmclimb/link")
        link.external_attr = 0o120777 << 16
        file.writestr(link, str(place / "home" / "secrets"))
    try:
        built = await make().ensure(EnvironmentSpec(pip=("tmclimb",)), lambda _: None)
    except InvalidRequest:
        pass
    else:
        assert not next(built.path.glob("lib/*/site-packages/tmclimb/link"), place).is_symlink()
    inside = place / "home" / "envs"
    climbed = [path for path in everything(place) if path.endswith("climbed.txt")]
    assert [path for path in climbed if not path.startswith(f"{inside}/")] == []
    assert not list(inside.glob("climbed.txt")) + list(inside.glob(".*/climbed.txt"))


async def test_without_a_sandbox_nothing_is_built(place: Path, make: Callable[..., EnvironmentBuilder]):
    ran = place / "ran"
    source(
        place / "wheels", "tmsrc", f"def attack():\n    open({str(ran)!r}, 'w').close()\n    return {{}}\n"
    )
    wheel(place / "wheels", "tmgood", "1.0")
    plain = make(sandbox=False)
    for line in ("tmsrc", "tmsrc @ https://127.0.0.1:1/tmsrc-1.0.tar.gz", "git+https://127.0.0.1:1/x"):
        with pytest.raises(
            InvalidRequest, match=r"runs its code, for which this server has no sandbox"
        ) as no:
            await plain.ensure(EnvironmentSpec(pip=(line,)), lambda _: None)
        assert no.value.code == "SourceBuildRefused"
    assert not ran.exists()
    assert (await plain.ensure(EnvironmentSpec(pip=("tmgood",)), lambda _: None)).python_version
    await make(sandbox=False, unconfined=True).ensure(EnvironmentSpec(pip=("tmsrc",)), lambda _: None)
    assert ran.exists()


class Index(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


async def test_an_index_of_the_servers_own_is_reached_by_a_build(
    place: Path, make: Callable[..., EnvironmentBuilder]
):
    """On a loopback port that the server's settings name: that port, and no other."""
    for name in ("tmsource", "pip"):
        (place / "index" / "simple" / name).mkdir(parents=True)
    wheel(place / "index" / "simple" / "pip", "pip", "99.0")
    source(place / "index" / "simple" / "tmsource", "tmsource", "def attack():\n    return {}\n")
    with ThreadingHTTPServer(
        ("127.0.0.1", 0),
        lambda *a: Index(*a, directory=str(place / "index")),  # type: ignore[arg-type]
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/simple"
        (place / "uv.toml").write_text(f'index-url = "{address}"\n')
        built = await make().ensure(EnvironmentSpec(pip=("tmsource",)), lambda _: None)
        assert "tmsource==1.0" in built.lock_text
        (place / "uv.toml").write_text("")
        theirs = EnvironmentSpec(pip=(f"--index-url {address}", "tmsource"))
        with pytest.raises(TidemillError) as refused:
            await make().ensure(theirs, lambda _: None)
        assert refused.value.code in ("PackageNotFound", "PackageIndexUnreachable"), refused.value
        server.shutdown()


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
    argv = [__file__, "-q", "-p", "no:cacheprovider", "--basetemp", f"{folder}/pytest", "--timeout", "90"]
    argv += ["-k", "finds_nothing or another_build_reads or leaves_behind or processes_are"]
    environ = {**os.environ, "HOME": folder, "PYTHONPATH": f"{root}/src", "PYTHONDONTWRITEBYTECODE": "1"}
    environ.pop("TMPDIR", None)
    try:
        done = subprocess.run(
            [sys.executable, "-c", AS_A_USER, str(UID), json.dumps(binds), *argv],
            capture_output=True,
            text=True,
            timeout=110,
            env=environ,
            cwd=root,
            check=False,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert "4 passed" in done.stdout, done.stdout + done.stderr
