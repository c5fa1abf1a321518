"""The access log's file: whole, turned over, and never what a request waits for."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tidemill.serving.gateway import access_log
from tidemill.serving.gateway.access_log import MOST_LINES, AccessLog
from tidemill.serving.gateway.http1 import Request


def write(log: AccessLog, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        log.denied(b"peer%d" % number, None, 401)


def peers(*texts: str) -> list[str]:
    return [line.split()[1] for text in texts for line in text.splitlines()]


def test_every_line_is_there_once_it_is_closed(tmp_path: Path):
    path = tmp_path / "access.log"
    path.write_text("2026-01-01T00:00:00Z before - - 401 0 0 - -\n")
    log = AccessLog(path)
    count = 2 * MOST_LINES + 3
    write(log, count)
    log.close()
    assert peers(path.read_text()) == ["before", *(f"peer{n}" for n in range(count))]
    assert path.read_text().splitlines()[1].endswith(" peer0 - - 401 0 0 - -")


def test_it_is_turned_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "access.log"
    log = AccessLog(path)
    monkeypatch.setattr(access_log, "MOST_BYTES", 1000)
    write(log, MOST_LINES)  # a batch, after which it is moved
    write(log, 3, MOST_LINES)
    log.close()
    before = path.with_name("access.log.1")
    assert peers(before.read_text()) == [f"peer{n}" for n in range(MOST_LINES)]
    assert peers(path.read_text()) == [f"peer{MOST_LINES + n}" for n in range(3)]


def test_nobody_waits_for_a_slow_disk(tmp_path: Path):
    path = tmp_path / "access.log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    count = 10 * MOST_LINES
    log = AccessLog(path)
    write(log, count)  # more than a pipe holds, while nobody reads
    os.set_blocking(reader, True)
    closing = threading.Thread(target=log.close)
    closing.start()
    with os.fdopen(reader) as file:
        text = file.read()
    closing.join(60)
    assert peers(text) == [f"peer{n}" for n in range(count)]


def test_a_line_is_bounded(tmp_path: Path):
    path = tmp_path / "access.log"
    log = AccessLog(path)
    head = b"%b /%b?secret HTTP/1.1\r\nHost: here\r\n\r\n" % (b"M" * 20_000, b"p" * 20_000)
    log.denied(b"peer", Request(head), 404)
    log.close()
    _, *words = path.read_text().split()
    assert words == ["peer", "M" * 32, "/" + "p" * 1023, "404", "0", "0", "-", "-"]


def test_none_is_kept():
    log = AccessLog(None)
    write(log, 2 * MOST_LINES)
    log.flush()
    log.close()
