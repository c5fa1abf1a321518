"""Packages whose files, links and sources are hostile: through the real builder, offline."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hostilebuilds
import pytest
from hostilebuilds import everything
from sourcepackages import source
from wheelmaker import wheel

from tidemill.domain.errors import InvalidRequest, TidemillError
from tidemill.environments.builder import EnvironmentBuilder
from tidemill.environments.spec import EnvironmentSpec

place, make = hostilebuilds.place, hostilebuilds.make


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
    while not os.path.islink(box + "/tree"):
        time.sleep(0.01)
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
