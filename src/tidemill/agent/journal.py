"""What an agent wrote down: read by the engine when the agent is dead.

One JSON object a line, appended and fsynced before what it says is acted on or told:
`node` (groups, limits, uid), `intent` (before anything is spawned), `exit` (after every process of the task
is proved gone), `forget`. A torn last line is a record that was never acted on.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "journal"
COMPACT_AT = 1 << 20

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

TaskId = tuple[str, int]  # attempt id, rank


class Record:
    """What is known of one task: its newest epoch, and its exit if it has one."""

    __slots__ = ("epoch", "exit")

    def __init__(self, epoch: int, exit: dict[str, Any] | None = None) -> None:
        self.epoch = epoch
        self.exit = exit


class Replay:
    """`node` is what the agent said of itself; `tasks` those that were not forgotten."""

    __slots__ = ("node", "tasks")

    def __init__(self) -> None:
        self.node: dict[str, Any] = {}
        self.tasks: dict[TaskId, Record] = {}


def replay(directory: str) -> Replay:
    """Reads `directory`/journal; an absent one is empty."""
    try:
        with open(os.path.join(directory, NAME), "rb") as file:
            return replay_lines(file.read())
    except FileNotFoundError:
        return Replay()


def replay_lines(text: bytes) -> Replay:
    """What a journal with this text says."""
    state = Replay()
    for line in text.split(b"\n")[:-1]:  # after the last newline lies nothing, or a torn record
        record = json.loads(line)
        kind = record.pop("t")
        if kind == "node":
            state.node = record
        elif kind == "intent":
            state.tasks[record["attempt"], record["rank"]] = Record(record["epoch"])
        elif kind == "exit":
            state.tasks[record["attempt"], record["rank"]] = Record(record["epoch"], record)
        elif kind == "forget":
            state.tasks.pop((record["attempt"], record["rank"]), None)
    return state


class Journal:
    """The writing side; one writer, the agent. `directory` is a descriptor that stays open."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._fd = self._open(NAME, os.O_APPEND)
        os.fsync(directory)
        self._size = os.fstat(self._fd).st_size

    def write(self, kind: str, record: dict[str, Any], *, sync: bool = True) -> None:
        """Raises OSError (a full disk) with nothing half-written left behind."""
        line = _line(kind, record)
        try:
            _write_all(self._fd, line)
            if sync:
                os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line)

    @property
    def deleted(self) -> bool:
        """Whether its directory is gone: nobody can read what is written here."""
        return os.fstat(self._directory).st_nlink == 0

    @property
    def long(self) -> bool:
        return self._size > COMPACT_AT

    def compact(self, records: list[tuple[str, dict[str, Any]]]) -> None:
        """Replaces the file by `records`, atomically."""
        data = b"".join(_line(kind, record) for kind, record in records)
        fd = self._open(NAME + ".new", os.O_TRUNC | os.O_APPEND)
        _write_all(fd, data)
        os.fsync(fd)
        os.rename(NAME + ".new", NAME, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        os.fsync(self._directory)
        os.close(self._fd)
        self._fd, self._size = fd, len(data)

    def _open(self, name: str, flags: int) -> int:
        flags |= os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self._directory)


def _line(kind: str, record: dict[str, Any]) -> bytes:
    return _encode({"t": kind, **record}).encode() + b"\n"


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
