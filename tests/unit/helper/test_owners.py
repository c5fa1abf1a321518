"""Trees that change hands, while somebody hostile has a hand in them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tidemill.helper import owners
from tidemill.sandbox import uids

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SERVER = 65533
BUILD = uids.Range(uids.RANGES - 1)


def opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def own(path: Path, uid: int) -> Path:
    os.chown(path, uid, uid, follow_symlinks=False)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """in/file, work/file, work/link -> /etc/passwd: the server's."""
    root = tmp_path / "tree"
    for folder in ("in", "work"):
        (root / folder).mkdir(parents=True)
        (root / folder / "file").write_text("x")
    (root / "work/link").symlink_to("/etc/passwd")
    for path in (root, *root.rglob("*")):
        if os.geteuid() == 0:
            own(path, SERVER)
    return root


@needs_root
def test_there_and_back(tree: Path) -> None:
    root = opened(tree)
    owners.give(root, SERVER, BUILD.first, ("in", "etc"))
    given = {path.name for path in (tree, *tree.rglob("*")) if path.lstat().st_uid == BUILD.first}
    assert given == {"tree", "work", "file"}
    assert (tree / "in/file").stat().st_uid == SERVER
    own(tree / "work/file", BUILD.first + 1000)  # as an image's user
    own(tree / "work/link", BUILD.first)
    own(tree / "in/file", 0)
    owners.take(root, BUILD, SERVER)
    os.close(root)
    assert (tree / "in/file").stat().st_uid == 0, "what was never the build's stays as it is"
    left = {path.lstat().st_uid for path in (tree, *tree.rglob("*")) if path != tree / "in/file"}
    assert left == {SERVER}
    assert os.stat("/etc/passwd").st_uid == 0


@needs_root
def test_what_is_not_the_servers_own_alone_is_not_given(tree: Path) -> None:
    (tree / "work/roots").write_text("of root")
    shared = tree.parent / "cache"
    shared.write_text("of everybody")
    own(shared, SERVER)
    os.link(shared, tree / "work/shared")
    root = opened(tree)
    owners.give(root, SERVER, BUILD.first, ())
    os.close(root)
    assert (tree / "work/roots").stat().st_uid == 0
    assert shared.stat().st_uid == SERVER


@needs_root
def test_what_a_build_linked_twice_comes_back(tree: Path) -> None:
    own(tree / "work/file", BUILD.first)
    os.link(tree / "work/file", tree / "work/again")
    root = opened(tree)
    owners.take(root, BUILD, SERVER)
    os.close(root)
    assert (tree / "work/again").stat().st_uid == SERVER


@needs_root
def test_a_tree_deeper_than_a_path_may_be_long(tree: Path) -> None:
    here = opened(tree / "work")
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.fchown(below, BUILD.first, BUILD.first)
        os.close(here)
        here = below
    root = opened(tree)
    before = len(os.listdir("/proc/self/fd"))
    owners.take(root, BUILD, SERVER)
    assert len(os.listdir("/proc/self/fd")) <= before  # of others some may be collected meanwhile
    assert os.fstat(here).st_uid == SERVER
    folders = owners.size(root)  # on some file systems they take nothing
    with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here), "wb") as file:
        file.write(os.urandom(64 << 10))
        os.fsync(file.fileno())
    assert owners.size(root) >= folders + (64 << 10)
    os.close(root)
    os.close(here)
    subprocess.run(["rm", "-rf", str(tree)], check=True)


def test_a_folder_that_is_moved_meanwhile_ends_the_walk(tree: Path) -> None:
    """Else going up would lead out of the tree."""
    (tree / "work/below").mkdir()
    (tree / "work/below/file").write_text("x")
    outside = tree.parent / "outside"
    outside.mkdir()
    (outside / "roots").write_text("x")
    seen: list[str] = []

    def look(here: int, name: str, info: os.stat_result) -> None:
        seen.append(name)
        if (tree / "work/below").exists() and name == "file" and len(os.listdir(here)) == 1:
            shutil.move(tree / "work/below", outside / "below")

    root = opened(tree / "work")
    with pytest.raises(owners.Moved):
        owners.walk(root, look)
    os.close(root)
    assert "roots" not in seen


def test_size_counts_what_lies_on_disk(tree: Path) -> None:
    with open(tree / "work/big", "wb") as file:
        file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())
    with open(tree / "work/sparse", "wb") as file:
        file.truncate(1 << 30)
    root = opened(tree)
    assert 1 << 20 <= owners.size(root) < 2 << 20
    os.close(root)
