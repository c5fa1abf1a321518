"""Signed checkpoints of the activity log, in a file beside the database: what is cut off the log's end, or
the whole log written anew, shows against them.

One JSON line each, appended and fsynced: {"seq", "hash", "at", "key", "signature"}. A checkpoint is made
`AFTER_S` after the first record that has none, or `EVERY` records later, and at a stop; an idle server has no
timer. A kill leaves the records since the last one without.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Protocol

import msgspec

from tidemill.domain.activity import Checkpoint, Head

NAME = "activity.checkpoints"
AFTER_S = 60.0
EVERY = 1000
_log = logging.getLogger("tidemill.activity")


class Signer(Protocol):
    @property
    def key_id(self) -> str: ...
    def sign(self, data: bytes) -> bytes: ...
    def verify(self, kid: str, data: bytes, signature: bytes) -> bool: ...


class Clock(Protocol):
    def now(self) -> int: ...


class _Line(msgspec.Struct):
    seq: int
    hash: str
    at: int
    key: str
    signature: str


class Checkpoints:
    def __init__(self, path: Path, signer: Signer, clock: Clock) -> None:
        self._path = path
        self._signer = signer
        self._clock = clock
        self._head = Head()
        self._signed = max((found.seq for found in self.read()), default=0)
        self._timer: asyncio.TimerHandle | None = None

    def note(self, head: Head) -> None:
        """The log has grown to `head`."""
        self._head = head
        if head.seq >= self._signed + EVERY:
            self.write()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(AFTER_S, self.write)

    def write(self) -> None:
        """Signs the newest head that was noted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._head.seq <= self._signed:
            return
        at, key = self._clock.now(), self._signer.key_id
        made = Checkpoint(self._head.seq, self._head.hash, at, key, b"")
        signature = self._signer.sign(made.text)
        line = _Line(made.seq, made.hash.hex(), at, key, signature.hex())
        try:
            _append(self._path, msgspec.json.encode(line) + b"\n")
        except OSError as error:
            # The next record tries again.
            _log.error("no checkpoint of the activity log could be written: %s", error)
            return
        self._signed = made.seq

    def read(self) -> list[Checkpoint]:
        """Those whose signatures hold, oldest first. What is no checkpoint of this home is passed over."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        found: list[Checkpoint] = []
        for raw in lines:
            try:
                line = msgspec.json.decode(raw, type=_Line)
                made = Checkpoint(
                    line.seq, bytes.fromhex(line.hash), line.at, line.key, bytes.fromhex(line.signature)
                )
            except (msgspec.MsgspecError, ValueError):
                continue  # a torn last line, or nothing of ours
            if self._signer.verify(made.key, made.text, made.signature):
                found.append(made)
        return found


def _append(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        # A line that was torn by a kill ends here, so that this one can be read.
        whole = not size or path.read_bytes()[-1:] == b"\n"
        os.write(descriptor, line if whole else b"\n" + line)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
