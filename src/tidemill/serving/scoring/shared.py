"""What the supervisor and its workers say to each other.

A page of shared memory says, for each connection, how far its answer is, and for each worker, since when it
is busy: a store each per request, no system call. Rare things (a connection given, one given back, ready,
failed) are messages on a socket pair that keeps their boundaries.
"""

from __future__ import annotations

import array
import mmap
import socket
import struct

# How far the answer on a connection is.
IDLE, ASKED, ANSWERING = 0, 1, 2

MOST_CONNECTIONS = 8192
MOST_WORKERS = 256

# Kinds of messages; each begins with one, and with the connection's slot or 0.
GIVE, CLOSED, BACK, LINGER, READY, FAILED, DRAIN = range(1, 8)
_HEADER = struct.Struct("!BI")
MESSAGE_LIMIT = 64 << 10


class Board:
    """`states[slot]`: IDLE, ASKED, ANSWERING. `busy[worker]`: when it last gave a sign of life, or 0.

    `slow[worker]`: it gives connections back after each answer, and shall be given none while it is busy.
    """

    def __init__(self) -> None:
        times = MOST_WORKERS * 8
        whole = memoryview(mmap.mmap(-1, times + MOST_WORKERS + MOST_CONNECTIONS))
        self.busy = whole[:times].cast("d")
        self.slow = whole[times : times + MOST_WORKERS]
        self.states = whole[times + MOST_WORKERS :]


class Channel:
    """One end of the socket pair; never blocks."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        end.setblocking(False)

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    def send(self, kind: int, slot: int = 0, payload: bytes = b"", descriptor: int | None = None) -> bool:
        """False: its buffer is full, or nobody is there any more."""
        rights = []
        if descriptor is not None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            self.socket.sendmsg([_HEADER.pack(kind, slot), payload], rights)
        except OSError:
            return False
        return True

    def receive(self) -> tuple[int, int, bytes, int] | None:
        """-> (kind, slot, payload, descriptor or -1), None when nothing is there. Raises EOFError."""
        try:
            data, rights, _, _ = self.socket.recvmsg(MESSAGE_LIMIT, socket.CMSG_LEN(4))
        except (BlockingIOError, InterruptedError):
            return None
        except ConnectionError:
            raise EOFError from None
        if not data:
            raise EOFError
        kind, slot = _HEADER.unpack_from(data)
        descriptor = -1
        for level, type_, value in rights:
            if level == socket.SOL_SOCKET and type_ == socket.SCM_RIGHTS:
                (descriptor,) = struct.unpack("i", value[:4])
        return kind, slot, data[_HEADER.size :], descriptor


def pair() -> tuple[Channel, Channel]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(one), Channel(other)
