"""Layers made by hand, good and evil, onto a root: nothing is ever written outside it."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidemill.environments.images.beneath import Tree
from tidemill.environments.images.layers import Applied, Applier, BadLayer
from tidemill.environments.images.unpack import unpack
from tidemill.environments.tree import remove_tree


def file(name: str, text: str = "", mode: int = 0o644, **more: object) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.REGTYPE, text.encode(), mode=mode, **more)


def entry(name: str, kind: bytes, data: bytes = b"", **more: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for field, value in {"mode": 0o755, "mtime": 1_000_000_000, **more}.items():
        setattr(info, field, value)
    return info, data


def folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.DIRTYPE)


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.SYMTYPE, linkname=target)


def hard(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.LNKTYPE, linkname=target)


def layer(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class World:
    """A root in a folder whose other content must stay as it is."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.root = where / "root"
        self.root.mkdir()
        (where / "outside").mkdir()
        (where / "outside" / "kept").write_text("kept")
        self.before = self.others()

    def others(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for path in sorted(self.where.rglob("*")):
            if self.root not in (path, *path.parents):
                info = path.lstat()
                found[str(path)] = (info.st_mode, info.st_nlink, path.read_bytes() if path.is_file() else b"")
        return found

    def apply(self, *layers: bytes, most_bytes: int = 1 << 30) -> Applied:
        done = Applied(most_bytes)
        try:
            with Tree(str(self.root)) as tree:
                applier = Applier(tree, done)
                for raw in layers:
                    applier.apply(io.BytesIO(raw))
        finally:
            assert self.others() == self.before
        return done

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))

    def text(self, name: str) -> str:
        return (self.root / name).read_text()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_files_folders_and_links(world: World):
    world.apply(
        layer(
            folder("./usr"),
            folder("usr/bin"),
            link("bin", "usr/bin"),
            file("bin/run", "#!run", 0o4755),  # through the link, as in a root of its own
            file("/etc/absolute", "a"),
            hard("usr/bin/same", "bin/run"),
            link("etc/shadow", "/etc/absolute"),
            file("deep/er/than/declared", "d"),
        )
    )
    assert world.text("usr/bin/run") == world.text("usr/bin/same") == "#!run"
    assert (world.root / "usr/bin/run").stat().st_nlink == 2
    assert os.readlink(world.root / "bin") == "usr/bin"
    assert os.readlink(world.root / "etc/shadow") == "/etc/absolute"
    mode = (world.root / "usr/bin/run").stat().st_mode
    assert stat.S_IMODE(mode) == 0o555, "no set-user-id bit, no write permission"
    assert stat.S_IMODE((world.root / "etc/absolute").stat().st_mode) == 0o444
    assert (world.root / "etc/absolute").stat().st_mtime == 1_000_000_000


def test_later_layers_replace_what_is_there(world: World):
    world.apply(
        layer(file("a", "1"), folder("b"), file("b/c", "1"), link("l", "a"), file("f", "1"), file("g", "1")),
        layer(
            file("a", "2"), file("b", "now a file"), file("l", "a file too"), folder("f"), file("g/h", "x")
        ),
    )
    assert (world.text("a"), world.text("b"), world.text("l")) == ("2", "now a file", "a file too")
    assert (world.root / "f").is_dir()
    assert world.text("g/h") == "x"


def test_whiteouts_hide_what_lower_layers_brought(world: World):
    lower = layer(file("d/old", "o"), file("d/sub/old", "o"), file("gone"), file("tree/a"), file("kept"))
    upper = layer(
        file(".wh.gone"),
        file(".wh.tree"),
        file(".wh.never-there"),
        file("no/such/.wh.x"),
        file(".wh..wh.plnk"),
    )
    world.apply(lower, upper)
    assert [n for n in world.names() if not n.startswith("d")] == ["kept"]


@pytest.mark.parametrize("first", [True, False])
def test_an_opaque_folder_keeps_what_its_own_layer_brings(world: World, first: bool):
    opaque = file("d/.wh..wh..opq")
    new = [folder("d"), folder("d/sub"), file("d/sub/new", "n"), file("d/new", "n")]
    world.apply(
        layer(file("d/old"), file("d/sub/old"), file("d/other/old"), file("kept")),
        layer(*([opaque, *new] if first else [*new, opaque])),
    )
    assert world.names() == ["d", "d/new", "d/sub", "d/sub/new", "kept"]


def test_a_whiteout_through_a_link_hides_within_the_root(world: World):
    world.apply(
        layer(file("usr/bin/a"), link("bin", "/usr/bin")),
        layer(file("bin/.wh.a"), file("bin/b")),
    )
    assert world.names() == ["bin", "usr", "usr/bin", "usr/bin/b"]


EVIL: dict[str, Callable[[str], list[tuple[tarfile.TarInfo, bytes]]]] = {
    "dots": lambda out: [file(f"../outside/{out}", "evil")],
    "dots in the middle": lambda out: [file(f"a/../../outside/{out}", "evil")],
    "whiteout with dots": lambda out: [file("../outside/.wh.kept")],
    "whiteout of the parent": lambda out: [file("a/.wh...")],
    "whiteout of nothing": lambda out: [file("a/x"), file("a/.wh.")],
    "hard link out": lambda out: [hard("l", "../outside/kept")],
    "hard link through a link": lambda out: [link("l", "/../../outside"), hard("h", "l/kept")],
    "hard link to a folder": lambda out: [folder("d"), hard("h", "d")],
    "hard link to itself": lambda out: [hard("h", "h")],
    "links in circles": lambda out: [link("a", "b"), link("b", "a"), file("a/x", "evil")],
    "longer than a name": lambda out: [file("x" * 300, "evil")],
    "deeper than a path": lambda out: [file("/".join(["deep" * 10] * 150), "evil")],
    "more than is allowed": lambda out: [file("big", "x" * 2048)],
    "unknown kind": lambda out: [entry("k", b"Z")],
}  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_what_is_refused(world: World, name: str):
    with pytest.raises(BadLayer):
        world.apply(layer(*EVIL[name]("new")), most_bytes=1024)


@pytest.mark.parametrize(
    "target", ["../outside", "/../../outside", "../../../../../../{where}/outside", "{where}/outside"]
)
def test_links_that_escape_are_kept_and_lead_nowhere(world: World, target: str):
    """A later entry through the link lands below the root, where the link leads in a root of its own."""
    target = target.format(where=world.where)
    world.apply(layer(link("out", target), file("out/new", "contained"), file("out/kept", "overwritten?")))
    assert os.readlink(world.root / "out") == target
    assert [p.read_text() for p in world.root.rglob("new")] == ["contained"]


def test_a_link_is_replaced_never_written_through(world: World):
    outside = str(world.where / "outside" / "kept")
    world.apply(layer(link("f", outside)), layer(file("f", "mine")))
    assert world.text("f") == "mine"
    world.apply(layer(link("d", str(world.where / "outside")), folder("d"), file("d/kept", "mine")))
    assert world.text("d/kept") == "mine"
    assert not (world.root / "d").is_symlink()


def test_devices_and_pipes_are_left_out(world: World):
    done = world.apply(
        layer(
            entry("dev/sda", tarfile.BLKTYPE, devmajor=8),
            entry("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3),
            entry("pipe", tarfile.FIFOTYPE),
            file("f"),
        )
    )
    assert world.names() == ["f"]
    assert done.skipped == 3


def test_a_cut_off_layer_is_refused(world: World):
    raw = layer(file("a", "x" * 5000))
    with pytest.raises(BadLayer, match=r"ends too early|read"):
        world.apply(raw[:2048])


def test_a_header_that_asks_for_all_memory_is_refused(world: World):
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 10**15
    with pytest.raises(BadLayer):
        world.apply(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)


def test_holes_stay_holes(world: World):
    gnu_tar = shutil.which("tar")
    if gnu_tar is None:
        pytest.skip("no tar")
    source = world.where / "sparse"
    with source.open("wb") as stream:
        stream.write(b"start")
        stream.seek(64 << 20)
        stream.write(b"end")
    raw = subprocess.run(
        [gnu_tar, "-C", str(world.where), "-cS", "sparse"], check=True, capture_output=True, timeout=60
    ).stdout
    world.before = world.others()
    done = world.apply(raw, most_bytes=1 << 20)
    made = world.root / "sparse"
    assert made.read_bytes() == source.read_bytes()
    assert made.stat().st_blocks * 512 < 1 << 20
    assert done.size < 1 << 20


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from("fdlhw"),
                st.lists(st.sampled_from(["a", "b", "..", ".", "c"]), min_size=1, max_size=4),
                st.sampled_from(
                    ["a", "../b", "/c", "..", "/", "a/b", "../../../outside", "../../outside/kept"]
                ),
            ),
            max_size=8,
        ),
        max_size=3,
    )
)
@example([[("f", ["a"], ""), ("h", ["a", "b"], "a")]])  # its file would have to be a folder
def test_whatever_layers_say_nothing_outside_changes(tmp_path_factory: pytest.TempPathFactory, described):
    world = World(tmp_path_factory.mktemp("world"))
    make = {
        "f": lambda name, target: file(name, "f"),
        "d": lambda name, target: folder(name),
        "l": link,
        "h": hard,
        "w": lambda name, target: file(f"{os.path.dirname(name)}/.wh.{os.path.basename(name)}"),
    }
    for entries in described:
        with suppress(BadLayer):
            world.apply(layer(*(make[kind]("/".join(parts), target) for kind, parts, target in entries)))
    remove_tree(world.where)


def test_the_process_that_unpacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = tmp_path / "root"
    root.mkdir()
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_bytes(gzip.compress(layer(file("f", "1"), link("tmp", "/outside"), link("etc", "/nowhere"))))
    second.write_bytes(layer(file("g", "2")))
    order = {
        "root": str(root),
        "layers": [str(first), str(second)],
        "most_bytes": 1 << 20,
        "folders": ["/tmp", "/home/me"],
        "files": {"/etc/hosts": "127.0.0.1 localhost\n"},
    }
    done = unpack(order)
    assert (done.size, done.entries) == (2, 4)
    assert (root / "tmp").is_dir()
    assert not (root / "tmp").is_symlink()
    assert (root / "home/me").is_dir()
    assert (root / "nowhere/hosts").read_text() == "127.0.0.1 localhost\n"
    assert stat.S_IMODE((root / "home").stat().st_mode) == 0o555
    assert '"layer": 2' in capsys.readouterr().out
    remove_tree(root)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_without_root_it_is_the_same():
    """A server of a user's own: folders that are read-only at the end are filled all the same."""
    with tempfile.TemporaryDirectory(prefix="tidemill-image-") as folder:
        root = Path(folder) / "root"
        root.mkdir()
        os.chown(folder, 65534, 65534)
        os.chown(root, 65534, 65534)
        first = layer(entry("a", tarfile.DIRTYPE, mode=0o500), file("a/b", "1", 0), hard("a/c", "a/b"))
        second = layer(file("a/.wh.c"), file("a/b", "2"), entry("null", tarfile.CHRTYPE), folder_of(0))
        for number, raw in enumerate((first, second)):
            (Path(folder) / str(number)).write_bytes(raw)
        order = {"root": str(root), "most_bytes": 99, "folders": ["/var/tmp"], "files": {"/etc/hosts": "h"}}
        order["layers"] = [f"{folder}/0", f"{folder}/1"]
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                unpack(order)
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert (root / "a/b").read_text() == "2"
        assert sorted(p.name for p in root.iterdir()) == ["a", "closed", "etc", "var"]
        assert {stat.S_IMODE(p.stat().st_mode) for p in root.rglob("*")} == {0o444, 0o555}
        remove_tree(root)


def folder_of(mode: int) -> tuple[tarfile.TarInfo, bytes]:
    return entry("closed", tarfile.DIRTYPE, mode=mode)


def test_a_bad_layer_is_named(tmp_path: Path):
    (tmp_path / "root").mkdir()
    (tmp_path / "1").write_bytes(layer(file("f")))
    order = {"root": str(tmp_path / "root"), "most_bytes": 1, "folders": [], "files": {}}
    for raw, why in ((gzip.compress(b"x" * 99)[:-12], "read|unpacked"), (b"no tar at all" * 99, "read")):
        (tmp_path / "2").write_bytes(raw)
        with pytest.raises(BadLayer, match=f"layer 2 of 2: .*({why})"):
            unpack({**order, "layers": [str(tmp_path / "1"), str(tmp_path / "2")]})


def test_zstd(tmp_path: Path):
    if shutil.which("zstd") is None:
        pytest.skip("no zstd")
    (tmp_path / "root").mkdir()
    raw = subprocess.run(["zstd", "-cq"], input=layer(file("f", "z")), check=True, capture_output=True).stdout
    (tmp_path / "1").write_bytes(raw)
    order = {"root": str(tmp_path / "root"), "most_bytes": 9, "folders": [], "files": {}}
    unpack({**order, "layers": [str(tmp_path / "1")]})
    assert (tmp_path / "root" / "f").read_text() == "z"
    (tmp_path / "1").write_bytes(raw[:-6])
    with pytest.raises(BadLayer):
        unpack({**order, "layers": [str(tmp_path / "1")]})


def test_finding_things_in_a_tree(world: World):
    world.apply(
        layer(
            file("usr/bin/bash", mode=0o755),
            link("bin", "usr/bin"),
            link("usr/bin/sh", "/bin/bash"),
            link("usr/bin/out", "../../../../outside/kept"),
            link("usr/bin/loop", "loop"),
            file("usr/bin/data"),
        )
    )
    with Tree(str(world.root)) as tree:
        assert tree.find("/bin/sh") == "/bin/bash"
        assert tree.executable("/bin/sh")
        assert not tree.executable("/bin/data")
        assert not tree.executable("/bin/loop")
        assert not tree.executable("/bin/out")
        assert tree.find("/bin/nothing") is None
        assert tree.names("/bin") == ["bash", "data", "loop", "out", "sh"]
        assert tree.names("/nowhere") == []
