"""Dockerfiles built by the real buildah, from images of a registry on the loopback; and those that attack."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from imagemaker import Layout, busybox, need, push, registry

from tidemill.domain.errors import InvalidRequest
from tidemill.environments.box import GROUPS, Confinement
from tidemill.environments.dockerfiles.box import DockerBox
from tidemill.environments.dockerfiles.builder import DockerfileBuilder, Order
from tidemill.environments.images.reference import parse_reference
from tidemill.environments.images.store import FoundImage, ImagePolicy, ImageStore
from tidemill.environments.tree import remove_tree
from tidemill.sandbox import cgroups, tiers

pytestmark = pytest.mark.root


class Files:
    """A context."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    def digest(self) -> str:
        return hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()

    def read(self, name: str) -> bytes | None:
        return self.files[name].encode() if name in self.files else None

    def copy_to(self, folder: Path) -> None:
        for name, text in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a small image."""
    need("bwrap", "buildah", "skopeo", "docker-registry")
    if os.geteuid() != 0:
        pytest.skip("Dockerfiles are built by root only")
    if why := tiers.sandboxing(0).why_not:
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
    folder = tmp_path_factory.mktemp("base")
    layout = Layout(folder / "layout")
    commands = (
        "chown",
        "stat",
        "mount",
        "umount",
        "chroot",
        "nc",
        "dd",
        "su",
        "setsid",
        "nohup",
        "grep",
        "ln",
    )
    layout.add([busybox(*commands)], config={"Env": ["PATH=/bin", "FROM_BASE=yes"]})
    with registry(folder / "registry") as address:
        push(layout, "latest", f"{address}/team/base:1")
        yield f"{address}/team/base"


@pytest.fixture
def place() -> Iterator[Path]:
    """home/secrets, home/images: as on a server, below a folder that others may enter."""
    folder = Path(tempfile.mkdtemp(prefix="tidemill-dockerfiles-"))
    folder.chmod(0o755)
    (folder / "home").mkdir(mode=0o700)
    (folder / "home" / "secrets").mkdir(mode=0o700)
    (folder / "home" / "secrets" / "signing.pem").write_text("the server's key")
    yield folder
    remove_tree(folder)


class Builds:
    def __init__(self, place: Path, **policy: int) -> None:
        self.root = place / "home" / "images"
        self.store = ImageStore(self.root, lambda: time.time_ns() // 1000, ImagePolicy(**policy))
        self.builder = DockerfileBuilder(self.root, self.store, Confinement())
        self.log: list[str] = []

    async def build(self, dockerfile: str, **files: str) -> FoundImage:
        return await self.ask(Files({"Dockerfile": dockerfile, **files}), "Dockerfile")

    async def ask(self, context: Files, dockerfile: str) -> FoundImage:
        async def logins(_: object) -> None:
            return None

        order = Order("env:1", "team", context, dockerfile, logins)
        return await self.builder.ensure(order, self.log.append)

    def left(self) -> list[str]:
        """What a build should not leave."""
        groups = [path for path in cgroups.stale(GROUPS) if path.endswith(f"-{os.getpid()}")]
        return [path.name for path in self.root.glob(".tmp-*")] + groups


@pytest.fixture
def builds(place: Path) -> Builds:
    return Builds(place)


async def test_a_dockerfile_becomes_an_image(builds: Builds, base: str):
    text = f"""\
FROM {base}:1 AS maker
RUN echo made > /made
FROM {base}:1
WORKDIR /srv
COPY word data/ ./
COPY --from=maker /made /made
RUN echo "$FROM_BASE of $(id -u)" > /ran && \\
    chown 1000:1000 /ran && chown 0:42 word
ENV ADDED=too
USER 1000
RUN id -u > /srv/user 2>/dev/null || echo "user $(id -u) may not write there"
"""
    found = await builds.build(text, word="hello\n", **{"data/deep": "x"})
    root = found.image.root
    assert (root / "srv/word").read_text() == "hello\n"
    assert (root / "srv/deep").read_text() == "x"
    assert (root / "made").read_text() == "made\n"
    assert (root / "ran").read_text() == "yes of 0\n"
    assert dict(found.image.env) == {"PATH": "/bin", "FROM_BASE": "yes", "ADDED": "too"}
    assert "[2/2] STEP 2/8: WORKDIR /srv" in builds.log
    assert "user 1000 may not write there" in builds.log
    assert not builds.left()
    said = list(builds.log)
    builds.log.clear()
    again = await builds.build(text, word="hello\n", **{"data/deep": "x"})
    assert (again.cached, again.image.digest, builds.log) == (True, found.image.digest, said)
    other = await builds.build(text, word="other\n", **{"data/deep": "x"})
    assert (other.image.root / "srv/word").read_text() == "other\n"


async def test_ten_who_ask_at_once_get_one_build(builds: Builds, base: str):
    text = f"FROM {base}:1\nRUN sleep 0.3; echo one >> /count\n"
    found = await asyncio.gather(*(builds.build(text) for _ in range(10)))
    assert len({each.image.digest for each in found}) == 1
    assert len([line for line in set(builds.log) if line.startswith("COMMIT")]) == 1
    assert (found[0].image.root / "count").read_text() == "one\n"


async def test_an_image_by_its_digest_and_by_an_argument(builds: Builds, base: str):
    first = await builds.build(f"ARG BASE={base}\nFROM ${{BASE}}:1\nRUN echo 1 > /one\n")
    config = await builds.store.look_up(parse_reference(f"{base}:1"), "team", None)
    pinned = await builds.build(f"FROM {base}@{config.digest}\nRUN echo 2 > /two\n")
    assert (pinned.image.root / "two").exists()
    assert (first.image.root / "one").exists()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("FROM {base}:1\n# a comment\nRUN echo so && \\\n    false\n", 3, ["exit status 1", "so"]),
        ("FROM {base}:2\n", 1, ["not in the registry", "Its tags: 1"]),
        ("FROM {base}:1\nCOPY --from={base}:3 / /\n", 2, ["not in the registry"]),
        ("FROM oci:/images/x\n", 1, ["is a file of this server, and a Dockerfile starts from a registry's"]),
        ("FROM package://digits:1\n", 1, ["is a package of a model, and a Dockerfile starts from"]),
        ("FROM {base}:1\nCOPY missing /\n", 2, ["missing"]),
        ("FROM {base}:1\nCOPY ../../secrets/signing.pem /\n", 2, ["no such file"]),
        ("FROM {base}:1\nADD link/etc/hostname /got\n", 2, ["no such file"]),
        ("FROM {base}:1\nRUN busybox yes\n", 2, ["prints more than a log may hold"]),
        ("FROM {base}:1\nRUN busybox tr '\\000' x < /dev/zero\n", 2, ["prints more than a log may hold"]),
        ("RUN true\nFROM {base}:1\n", 1, ["RUN stands before the first FROM"]),
    ],
)
async def test_what_is_wrong_is_said_with_its_line(
    builds: Builds, base: str, text: str, line: int, words: list[str]
):
    with pytest.raises(InvalidRequest) as caught:
        await builds.build(text.format(base=base))
    message = caught.value.message
    assert message.startswith(f"Dockerfile, line {line}: "), message
    assert all(word in message for word in words), message
    assert caught.value.target in ("properties.build", "properties.image")
    assert not builds.left()


async def test_a_dockerfile_that_is_not_there(builds: Builds, base: str):
    context = Files({"docker/file": f"FROM {base}:1"})
    with pytest.raises(InvalidRequest, match=r"env:1 has no 'Dockerfile': put the Dockerfile there"):
        await builds.ask(context, "Dockerfile")


async def test_a_build_finds_nothing_of_the_server(builds: Builds, base: str, place: Path):
    outside = place / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    secret, written = place / "home/secrets/signing.pem", outside / "written"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        attack = f"""\
cd /
grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
try() {{ "$@" >/dev/null 2>&1 && echo "$* SUCCEEDED"; }}
try cat {secret}
try touch {written}
try touch /usr/written
try cat /etc/shadow
try nc -w 2 127.0.0.1 {port}
try wget -q -T 3 -O - http://127.0.0.1:{port}/
try mount -t tmpfs none /srv
try umount /proc
try ls /proc/1/root/root
echo x > /proc/sys/kernel/core_pattern && echo "core_pattern SUCCEEDED"
for p in /proc/[0-9]*; do cat $p/cmdline 2>/dev/null | grep -a pytest && echo "pytest SUCCEEDED"; done
printf 'CONNECT 127.0.0.1:{port} HTTP/1.1\\r\\n\\r\\n' | nc -w 60 127.0.0.1 3128
printf 'GET http://0.0.0.0:{port}/metadata HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' | nc -w 60 127.0.0.1 3128
true
"""
        found = await builds.build(
            f"FROM {base}:1\nCOPY attack /\nRUN mkdir -p /srv && sh /attack > /found 2>&1\n",
            attack=attack,
        )
        with pytest.raises(InvalidRequest, match=r"line 2: .*(403|Forbidden)"):
            await builds.build(f"FROM {base}:1\nADD http://0.0.0.0:{port}/x /x\n")
        with pytest.raises(BlockingIOError):
            server.accept()
    saw = (found.image.root / "found").read_text()
    assert "SUCCEEDED" not in saw, saw
    assert saw.count("403") >= 2, saw
    assert "Seccomp:\t2" in saw
    assert "NoNewPrivs:\t1" in saw
    held = int(re.findall(r"CapBnd:\s*(\w+)", saw)[0], 16)
    assert not held & (1 << 21 | 1 << 12 | 1 << 16 | 1 << 17 | 1 << 19), saw  # SYS_ADMIN, NET_ADMIN, ...
    assert not list(outside.iterdir())
    assert not builds.left()


@pytest.mark.usefixtures("base")
async def test_whoever_takes_buildah_over_is_still_in_its_box(place: Path):
    """With all that buildah has: a RUN that gets out of its root has less."""
    outside = place / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    (place / "home/images").mkdir()
    box = DockerBox(place / "home/images/.tmp-0-0", Confinement(), "/usr/bin/buildah", 1 << 30)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        attack = TAKEN_OVER.format(
            secret=place / "home/secrets/signing.pem",
            home=place / "home",
            written=outside / "written",
            port=server.getsockname()[1],
        )
        try:
            box.make()
            lines: list[str] = []
            await box.run([str(shutil.which("busybox")), "sh", "-c", attack], lines.append, ())
        finally:
            box.close()
        with pytest.raises(BlockingIOError):
            server.accept()
    said = "\n".join(lines)
    assert "uid=0(root)" in said
    assert "mounted a tmpfs" in said, said
    assert "end" in said, said
    assert "SUCCEEDED" not in said, said
    assert not list(outside.iterdir())


TAKEN_OVER = """\
id
try() {{ "$@" >/dev/null 2>&1 && echo "$* SUCCEEDED"; }}
mkdir tmp/m && mount -t tmpfs none tmp/m && echo mounted a tmpfs
mount -o remount,rw,bind /usr
umount -l /etc; umount -l /proc/1; umount -l tmp
try cat {secret}
try ls {home}/secrets
try touch {written}
try touch /usr/written
try cat /etc/shadow
try cat /proc/1/root{secret}
try nsenter -t 1 -m cat {secret}
try unshare -r true
try unshare -n true
try /usr/bin/unshare -C true
try mount -t cgroup none tmp/m
try mount -t cgroup2 none tmp/m
try mount -t sysfs none tmp/m
try mount -t devtmpfs none tmp/m
try mknod tmp/m/disk b 254 0
try sh -c 'echo x > /proc/sys/kernel/core_pattern'
try sh -c 'echo x > /proc/sys/kernel/hostname'
try sh -c 'echo c > /proc/sysrq-trigger'
try dmesg
try ip link add x type dummy
try ping -c 1 -w 1 127.0.0.1
try nc -w 2 127.0.0.1 {port}
echo end
"""


async def test_what_a_build_leaves_running_ends_with_it(builds: Builds, base: str):
    mark = f"271{os.getpid()}"
    await builds.build(f"FROM {base}:1\nRUN setsid nohup sleep {mark} >/dev/null 2>&1 & \nRUN echo on\n")
    assert not running(f"sleep\0{mark}")
    assert not builds.left()


async def test_a_cancelled_build_is_gone(builds: Builds, base: str):
    mark = f"272{os.getpid()}"
    task = asyncio.ensure_future(
        builds.build(f"FROM {base}:1\nRUN setsid nohup sleep {mark} & sleep {mark}\n")
    )
    await wait_for(lambda: running(f"sleep\0{mark}") or task.done())
    assert not task.done(), task.exception()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not running(f"sleep\0{mark}")
    assert not builds.left()


async def test_a_killed_server_takes_the_build_with_it(builds: Builds, base: str):
    mark = f"273{os.getpid()}"
    code = SERVER.format(
        root=builds.root, text=f"FROM {base}:1\\nRUN setsid nohup sleep {mark} & sleep {mark}\\n"
    )
    here = str(Path(__file__).parent)
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", code, here)
    await wait_for(lambda: running(f"sleep\0{mark}") or server.returncode is not None)
    assert server.returncode is None
    server.kill()
    await server.wait()
    await wait_for(lambda: not running(f"sleep\0{mark}") and builds.store.sweep() > 0)
    assert not builds.left()
    assert [path for path in cgroups.stale(GROUPS) if path.endswith(f"-{server.pid}")] == []


SERVER = """
import asyncio, pathlib, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/.."]
from test_dockerfiles import Builds
asyncio.run(Builds(pathlib.Path("{root}").parent.parent).build("{text}"))
"""


async def test_a_build_that_fills_the_disk_is_ended(place: Path, base: str):
    builds = Builds(place, most_bytes=40 << 20)
    with pytest.raises(InvalidRequest) as caught:
        await builds.build(f"FROM {base}:1\nRUN dd if=/dev/zero of=/big bs=1M count=200; sleep 60\n")
    assert caught.value.code == "BuildOutOfDisk"
    assert "image_max_gib" in caught.value.message
    assert not builds.left()


async def test_a_result_that_is_no_image_is_refused(place: Path, tmp_path: Path):
    """What lies in the box afterwards is the build's word: links and pipes are never followed."""
    for name, plant in PLANTED.items():
        box = DockerBox(tmp_path / name, Confinement(), "/usr/bin/buildah", 1 << 30)
        image = box.folder / "out" / "image"
        (image / "blobs" / "sha256").mkdir(parents=True)
        (image / "index.json").write_text("{}")
        plant(image, place / "home/secrets/signing.pem")
        with pytest.raises(InvalidRequest, match="left no image that can be read"):
            box.take(tmp_path / f"{name}-taken")
    assert (place / "home/secrets/signing.pem").read_text() == "the server's key"


def _index_is(make: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    def plant(image: Path, secret: Path) -> None:
        (image / "index.json").unlink()
        make(image / "index.json", secret)

    return plant


def _folder_is_a_link(image: Path, secret: Path) -> None:
    shutil.rmtree(image / "blobs")
    (image / "blobs").symlink_to(secret.parent)


PLANTED: dict[str, Callable[[Path, Path], None]] = {
    "link": _index_is(lambda path, secret: path.symlink_to(secret)),
    "hard": _index_is(lambda path, secret: path.hardlink_to(secret)),
    "pipe": _index_is(lambda path, _: os.mkfifo(path)),
    "folder": _folder_is_a_link,
    "nothing": _index_is(lambda *_: None),
}


def running(words: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if words.encode() in path.read_bytes():
                return True
    return False


async def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
