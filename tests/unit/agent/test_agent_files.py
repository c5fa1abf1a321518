from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidemill.agent.files import open_beneath, read_beneath, shorten_beneath, size_beneath


@pytest.fixture
def root(tmp_path: Path) -> int:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "f").write_bytes(b"0123456789")
    (tmp_path / "outside").write_bytes(b"secret")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "in" / "fifo")
    return os.open(tmp_path / "in", os.O_RDONLY)


def test_reads_by_offset(root: int) -> None:
    assert read_beneath(root, "deep/f", 3, 4) == b"3456"
    assert read_beneath(root, "deep//./f", 8, 99) == b"89"
    assert read_beneath(root, "deep/none", 0, 4) == b""
    assert (size_beneath(root, "deep/f"), size_beneath(root, "none")) == (10, 0)


@pytest.mark.parametrize(
    "path", ["../outside", "deep/../../outside", "/etc/passwd", "link", "up/outside", "", ".", "fifo", "deep"]
)
def test_nothing_but_a_regular_file_below(root: int, path: str) -> None:
    with pytest.raises((OSError, ValueError)):
        read_beneath(root, path, 0, 10)


def test_a_log_is_made_but_never_through_a_link(root: int, tmp_path: Path) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    os.close(open_beneath(root, "deep/new", flags))
    assert (tmp_path / "in" / "deep" / "new").exists()
    (tmp_path / "in" / "dangling").symlink_to(tmp_path / "made")
    with pytest.raises(OSError, match="symbolic"):
        open_beneath(root, "dangling", flags)
    assert not (tmp_path / "made").exists()


def test_a_long_log_keeps_its_end_and_what_is_appended_meanwhile(root: int, tmp_path: Path) -> None:
    log = tmp_path / "in" / "log"
    writer = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in range(1000):
        os.write(writer, b"line %d\n" % number)
    assert not shorten_beneath(root, "log", 1 << 20, 100)
    assert shorten_beneath(root, "log", 1000, 100)
    os.write(writer, b"later\n")
    lines = log.read_text().splitlines()
    assert lines[0] == "[Tidemill has removed the older lines of this log]"
    assert lines[1:] == [*(f"line {n}" for n in range(989, 1000)), "later"]
    assert not shorten_beneath(root, "link", 0, 1)
    assert (tmp_path / "outside").read_bytes() == b"secret"
