"""Images from layouts, archives and a registry of our own: pulled once, verified, whole or absent."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from imagemaker import ARCHITECTURE, PASSWORD, PYTHON_ENV, USER, Layer, Layout, push, registry, with_python

from tidemill.domain.errors import InvalidRequest, OutOfSpace, TidemillError
from tidemill.environments.images import pulling
from tidemill.environments.images.reference import parse_reference
from tidemill.environments.images.registry import Login, Skopeo
from tidemill.environments.images.store import ImagePolicy, ImageStore
from tidemill.environments.tree import remove_tree

LOGIN = Login("ours", USER, PASSWORD)


def quiet(_: str) -> None: ...


def command(*argv: str, **more: Any) -> str:
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60, **more)
    return done.stdout


def everything_in(folder: Path) -> bytes:
    return b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def now() -> int:
    return time.time_ns() // 1000


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    made = Layout(tmp_path_factory.mktemp("layout") / "images")
    base = Layer().file("etc/os-release", "ID=tiny\n").file("etc/old", "old").link("etc/hosts", "/outside")
    top = Layer().file("etc/.wh.old").file("etc/new", "new")
    made.add([base, top], "two", {"Env": ["PATH=/bin", "WHO=image"], "User": "1000", "WorkingDir": "/srv"})
    host = made.add([Layer().file("arch", ARCHITECTURE)], "host")
    other = made.add([Layer().file("arch", "other")], "other", architecture="vax")
    made.index({"vax": other, ARCHITECTURE: host}, "both")
    made.index({"vax": other}, "foreign")
    return made


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("hub") / "open") as address:
        for tag in ("two", "both"):
            push(layout, tag, f"{address}/team/tiny:{tag}")
        yield address


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Iterator[str]:
    """A registry that wants a login."""
    with registry(tmp_path_factory.mktemp("vault") / "closed", login=True) as address:
        push(layout, "two", f"{address}/secret:two", login=True)
        yield address


@pytest.fixture
def make(tmp_path: Path, layout: Layout) -> Iterator[Callable[..., ImageStore]]:
    def made(**policy: object) -> ImageStore:
        folders = (str(layout.path), str(tmp_path / "archives"))
        return ImageStore(tmp_path / "images", now, policy=ImagePolicy(**{"folders": folders, **policy}))

    yield made
    remove_tree(tmp_path / "images")


async def test_a_layout_is_unpacked_once(make: Callable[..., ImageStore], layout: Layout):
    store, lines = make(), []
    image = parse_reference(f"oci:{layout.path}:two")
    first = await store.ensure(image, "ws", None, lines.append)
    root = first.image.root
    assert not first.cached
    assert sorted(os.listdir(root / "etc")) == ["hostname", "hosts", "new", "os-release", "resolv.conf"]
    assert (root / "etc/hosts").read_text().startswith("127.0.0.1 localhost")
    assert (root / "var/tmp").is_dir()
    assert first.image.env == (("PATH", "/bin"), ("WHO", "image"))
    assert (first.image.user, first.image.working_dir, first.image.layers) == ("1000", "/srv", 2)
    assert store.find(first.image.digest) == first.image
    assert "2 layers" in first.notes[0]
    assert any("Unpacking: layer 2 of 2" in line for line in lines)
    modes = {stat.S_IMODE(path.lstat().st_mode) for path in [root, *root.rglob("*")] if not path.is_symlink()}
    assert modes <= {0o444, 0o555}
    again = await make().ensure(image, "ws", None, quiet)
    assert again.cached
    assert again.image == first.image
    assert again.notes == (f"Image oci:{layout.path}:two is {first.image.short}.",)


async def test_of_an_index_the_image_for_this_host_is_taken(make, layout: Layout, hub: str):
    for text in (f"oci:{layout.path}:both", f"{hub}/team/tiny:both"):
        found = await make().ensure(parse_reference(text), "ws", None, quiet)
        assert (found.image.root / "arch").read_text() == ARCHITECTURE
    with pytest.raises(InvalidRequest, match=f"none for linux/{ARCHITECTURE}, only for linux/vax"):
        await make().ensure(parse_reference(f"oci:{layout.path}:foreign"), "ws", None, quiet)
    with pytest.raises(InvalidRequest, match="is for linux/vax"):
        await make().ensure(parse_reference(f"oci:{layout.path}:other"), "ws", None, quiet)


async def test_ten_who_wait_share_one_pull(make, hub: str, monkeypatch: pytest.MonkeyPatch):
    store, calls, real = make(), [], Skopeo.copy

    async def counted(*arguments, **named):
        calls.append(arguments[1].canonical)
        await real(*arguments, **named)

    monkeypatch.setattr(Skopeo, "copy", counted)
    image = parse_reference(f"{hub}/team/tiny:two")
    found = await asyncio.gather(*(store.ensure(image, "ws", None, quiet) for _ in range(10)))
    assert len({item.image.root for item in found}) == 1
    assert calls == [f"{hub}/team/tiny@{found[0].image.digest}"]
    assert (await store.ensure(image.at(found[0].image.digest), "ws", None, quiet)).cached
    assert len(calls) == 1
    assert os.listdir(found[0].image.root.parent.parent / ".fetch") == []


async def test_a_tag_is_looked_up_each_time_a_digest_never_again(make, layout: Layout, tmp_path: Path):
    with registry(tmp_path / "registry") as address:
        store, image = make(), parse_reference(f"{address}/moving:latest")
        push(layout, "two", f"{address}/moving:latest")
        first = await store.ensure(image, "ws", None, quiet)
        exact = image.at(first.image.digest)
        await store.ensure(exact, "ws", None, quiet)
        push(layout, "host", f"{address}/moving:latest")
        second = await store.ensure(image, "ws", None, quiet)
        assert second.image.digest != first.image.digest
    gone = await store.ensure(image, "ws", None, quiet)
    assert gone.image == second.image
    assert "cannot be reached" in gone.notes[0]
    assert "What it was before is used" in gone.notes[0]
    assert (await store.ensure(exact, "ws", None, quiet)).notes == ()
    with pytest.raises(TidemillError, match="cannot be reached") as caught:
        await store.ensure(image, "another workspace", None, quiet)
    assert caught.value.status == 503


async def test_what_a_registry_refuses(make, hub: str, vault: str):
    store = make()

    async def refused(text: str, login: Login | None = None) -> TidemillError:
        with pytest.raises(TidemillError) as caught:
            await store.ensure(parse_reference(text), "ws", login, quiet)
        return caught.value

    unknown = await refused(f"{hub}/team/tiny:tow")
    assert unknown.code == "ImageNotFound"
    assert "Did you mean two" in unknown.message
    assert "Its tags: both, two." in unknown.message
    assert (await refused(f"{hub}/team/nothing")).code == "ImageNotFound"
    absent = await refused(f"{hub}/team/tiny@sha256:{'0' * 64}")
    assert absent.code == "ImageNotFound"
    closed = await refused(f"{vault}/secret:two")
    assert closed.code == "RegistryUnauthorized"
    assert (
        f"no connection to it: create one of category ContainerRegistry with target {vault}" in closed.message
    )
    wrong = await refused(f"{vault}/secret:two", Login("theirs", USER, "guessed"))
    assert "refuses the credentials of connection 'theirs'" in wrong.message
    assert "guessed" not in wrong.message


async def test_a_login_opens_and_leaves_nothing(
    make, vault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    argvs, real = [], pulling.asyncio.create_subprocess_exec

    async def seen(*argv, **named):
        argvs.append((argv, named["env"]))
        auth = next((a.partition("=")[2] for a in argv if "authfile=" in a), None)
        if auth:
            assert stat.S_IMODE(os.stat(auth).st_mode) == 0o600
            assert stat.S_IMODE(os.stat(os.path.dirname(auth)).st_mode) == 0o700
        return await real(*argv, **named)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", seen)
    store = make()
    found = await store.ensure(parse_reference(f"{vault}/secret:two"), "ws", LOGIN, quiet)
    assert (found.image.root / "etc/new").read_text() == "new"
    assert argvs
    assert PASSWORD not in str(argvs)
    assert PASSWORD.encode() not in everything_in(tmp_path)
    # What one workspace was let read is not another's.
    exact = parse_reference(f"{vault}/secret@{found.image.digest}")
    assert (await store.ensure(exact, "ws", None, quiet)).image == found.image
    with pytest.raises(TidemillError, match="says no"):
        await store.ensure(exact, "other", None, quiet)


async def test_the_owners_own_logins_are_not_used(make, vault: str, tmp_path: Path, monkeypatch):
    (tmp_path / ".docker").mkdir()
    logins = str(tmp_path / ".docker" / "config.json")
    words = ("--tls-verify=false", "-u", USER, "--password-stdin", "--authfile", logins, vault)
    command("skopeo", "login", *words, input=PASSWORD)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", logins)
    with pytest.raises(TidemillError, match="says no"):
        await make().ensure(parse_reference(f"{vault}/secret:two"), "ws", None, quiet)


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
async def test_archives(make, layout: Layout, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    archive = tmp_path / "archives" / "image.tar"
    archive.parent.mkdir()
    where = f"{kind}:{archive}:" + ("made/by:hand" if kind == "docker-archive" else "two")
    command("skopeo", "copy", "-q", f"oci:{layout.path}:two", where)
    store, image = make(), parse_reference(where)
    found = await store.ensure(image, "ws", None, quiet)
    assert (found.image.root / "etc/new").read_text() == "new"
    assert dict(found.image.env)["WHO"] == "image"
    assert store.known(store.check(image), "ws") == found.image
    os.utime(archive, (1, 1))
    assert store.known(store.check(image), "ws") is None


async def test_local_images_only_from_where_the_owner_allows(make, layout: Layout, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(layout.path, elsewhere)
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "link").symlink_to(elsewhere)
    for text in (f"oci:{elsewhere}:two", f"oci:{tmp_path}/archives/link:two", "docker-archive:/etc/passwd"):
        with pytest.raises(InvalidRequest, match="not in a folder from which the owner") as caught:
            await make().ensure(parse_reference(text), "ws", None, quiet)
        assert caught.value.code == "ImageNotAllowed"
    with pytest.raises(InvalidRequest, match="none is allowed yet"):
        await make(folders=()).ensure(parse_reference(f"oci:{layout.path}:two"), "ws", None, quiet)
    with pytest.raises(InvalidRequest, match=r"allows only good\.example"):
        make(registries=("good.example",)).check(parse_reference("docker.io/python"))


async def test_altered_blobs_are_refused_and_leave_nothing(make, layout: Layout, tmp_path: Path):
    bad = tmp_path / "archives" / "bad"
    shutil.copytree(layout.path, bad)
    store, image = make(), parse_reference(f"oci:{bad}:two")
    entry = json.loads((bad / "index.json").read_text())["manifests"][0]
    manifest = json.loads(layout.blob(entry["digest"]).read_text())
    for described in (entry, manifest["config"], *manifest["layers"]):
        blob = bad / "blobs" / "sha256" / described["digest"].removeprefix("sha256:")
        raw = blob.read_bytes()
        blob.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        with pytest.raises(InvalidRequest, match=r"has another content|is not sha256|is sha256"):
            await store.ensure(image, "ws", None, quiet)
        blob.unlink()
        with pytest.raises(InvalidRequest, match=r"is missing|no OCI layout"):
            await store.ensure(image, "ws", None, quiet)
        blob.write_bytes(raw)
        assert list((tmp_path / "images").glob(".tmp-*")) == []
    (bad / "index.json").write_text("{")
    with pytest.raises(InvalidRequest, match=r"index\.json is not JSON"):
        await store.ensure(image, "ws", None, quiet)


async def test_a_layer_that_leads_out_refuses_the_image(make, tmp_path: Path):
    evil = Layout(tmp_path / "archives" / "evil")
    evil.add([Layer().file("fine", "x"), Layer().file("../../../out", "x")])
    with pytest.raises(InvalidRequest, match=r"layer 2 of 2: '\.\./\.\./\.\./out' leads out of the image"):
        await make().ensure(parse_reference(f"oci:{evil.path}"), "ws", None, quiet)
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == [".fetch", ".known", ".locks"]
    evil.add([Layer().file("big", "x" * 2000)], "big")
    with pytest.raises(InvalidRequest, match="is larger than 0 GiB unpacked"):
        await make(most_bytes=1000).ensure(parse_reference(f"oci:{evil.path}:big"), "ws", None, quiet)


async def test_a_full_disk_leaves_nothing(make, layout: Layout, tmp_path: Path, monkeypatch):
    async def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pulling, "unpack", full)
    with pytest.raises(OutOfSpace, match="nothing of it was kept"):
        await make().ensure(parse_reference(f"oci:{layout.path}:two"), "ws", None, quiet)
    assert list((tmp_path / "images").glob(".tmp-*")) == []


async def test_who_cancels_last_stops_the_pull(make, layout: Layout, tmp_path: Path, monkeypatch):
    started = asyncio.Event()

    async def slow(job, *_, **__):
        started.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(pulling, "unpack", slow)
    task = asyncio.create_task(make().ensure(parse_reference(f"oci:{layout.path}:two"), "ws", None, quiet))
    await asyncio.wait_for(started.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "images").glob(".tmp-*")) == []


KILLED = """
import asyncio, sys, time
from pathlib import Path
from tidemill.environments.images import pulling, store
from tidemill.environments.images.reference import parse_reference
async def hang(job, config, blobs, root, **_):
    (root / "half").write_text("x")
    print("half", flush=True)
    await asyncio.sleep(60)
pulling.unpack = hang
images = store.ImageStore(Path(sys.argv[1]), lambda: 0, policy=store.ImagePolicy(folders=("/",)))
asyncio.run(images.ensure(parse_reference(sys.argv[2]), "ws", None, print))
"""


def killed_half_way(images: Path, image: str) -> None:
    argv = [sys.executable, "-c", KILLED, str(images), image]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "half\n" in process.stdout  # and reads no further
        process.send_signal(signal.SIGKILL)


@pytest.mark.kill
async def test_a_killed_server_leaves_nothing_half(make, layout: Layout, tmp_path: Path):
    text = f"oci:{layout.path}:two"
    killed_half_way(tmp_path / "images", text)
    assert len(list((tmp_path / "images").glob(".tmp-*/rootfs/half"))) == 1
    store = make()
    found = await store.ensure(parse_reference(text), "ws", None, quiet)
    assert not (found.image.root / "half").exists()
    assert list((tmp_path / "images").glob(".tmp-*")) == []


async def test_what_is_told_of_an_image(make, tmp_path: Path):
    made = Layout(tmp_path / "archives" / "python")
    made.add([with_python()], config={"Env": PYTHON_ENV})
    found = (await make().ensure(parse_reference(f"oci:{made.path}"), "ws", None, quiet)).image
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert found.pythons == ((version, f"/opt/python/bin/python{version}"),)
    assert (found.libc, found.shell) == ("glibc", "/bin/sh")
    if os.geteuid() == 0:
        code = "import ssl, sqlite3, ctypes, os; print(os.listdir('/'))"
        program, env = f"/opt/python/bin/python{version}", dict(found.env)
        said = command(program, "-c", code, env=env, preexec_fn=partial(os.chroot, found.root))
        assert "'opt'" in said
