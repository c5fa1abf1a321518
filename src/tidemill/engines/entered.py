"""A process that was started inside a running task: its streams are descriptors here, so the kernel holds
back whoever writes faster than the other reads."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
import termios
from collections.abc import Callable
from typing import Any

from tidemill.agent import protocol
from tidemill.engines.base import EngineError, InvalidTask, Unreachable, Unready

Connect = Callable[[], socket.socket]
"""A new connection to the node's agent; raises Unreachable."""

CHUNK = 64 * 1024
_TIMEOUT_S = 10.0
_MOST_FDS = 4


class Entered:
    """`read` and `write` move bytes; with a terminal there is one stream (1) both ways. `wait` gives the exit
    code (128 + N for a death by signal N), None where it was killed with its task or its node."""

    def __init__(self, link: socket.socket, report: int, streams: list[int], terminal: bool) -> None:
        self._link = link
        self._report = socket.socket(fileno=report)
        self._report.setblocking(False)
        self._streams = dict(enumerate(streams))  # 0: to it, 1 and 2: from it
        for fd in streams:
            os.set_blocking(fd, False)
        self._has_terminal = terminal
        self._terminal = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._ended.add_done_callback(lambda f: f.cancelled() or f.exception())  # not everybody waits for it
        asyncio.get_running_loop().add_reader(self._report.fileno(), self._told)

    async def started(self) -> None:
        """With a terminal: once it is there. Raises InvalidTask with what went wrong."""
        if self._has_terminal:
            ended: asyncio.Future[Any] = self._ended
            await asyncio.wait([self._terminal, ended], return_when=asyncio.FIRST_COMPLETED)
            if not self._terminal.done():
                ended.result()
                raise InvalidTask("the job ended at this moment")

    async def read(self, stream: int) -> bytes:
        """The next bytes it wrote; b"" once there are no more."""
        fd = self._streams.get(stream)
        while fd is not None:
            try:
                return os.read(fd, CHUNK)
            except BlockingIOError:
                await _ready(fd, reading=True)
            except OSError as error:
                if error.errno == errno.EIO:  # nobody holds the terminal's other end
                    return b""
                raise
        return b""

    async def write(self, data: bytes) -> None:
        """Raises BrokenPipeError when it reads no more."""
        fd = self._streams.get(1 if self._has_terminal else 0)
        view = memoryview(data)
        while view:
            if fd is None:
                raise BrokenPipeError
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                await _ready(fd, reading=False)
            except OSError as error:
                raise BrokenPipeError from error

    def close_input(self) -> None:
        """End of file, where there is no terminal (there it is a byte that the terminal knows)."""
        if not self._has_terminal and (fd := self._streams.pop(0, None)) is not None:
            os.close(fd)

    def resize(self, rows: int, columns: int) -> None:
        if self._has_terminal and 1 in self._streams:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._streams[1], termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def wait(self) -> int | None:
        """Raises InvalidTask where it could not be started."""
        return await asyncio.shield(self._ended)

    def close(self) -> None:
        """Ends it, if it has not ended."""
        if self._report.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._report.fileno())
            self._report.close()
        for fd in self._streams.values():
            os.close(fd)
        self._streams.clear()
        self._link.close()
        for future in (self._terminal, self._ended):
            if not future.done():
                future.cancel()

    def _told(self) -> None:
        try:
            said, fds, _, _ = socket.recv_fds(self._report, 8192, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            said, fds = b"", []
        told: dict[str, Any] = json.loads(said) if said else {"exit": None}
        if fds:
            self._streams[1] = fds[0]
        if "terminal" in told and fds and not self._terminal.done():
            self._terminal.set_result(None)
        if "failed" in told and not self._ended.done():
            self._ended.set_exception(InvalidTask(told["failed"]))
        if "exit" in told and not self._ended.done():
            self._ended.set_result(told["exit"])
        if not said:
            asyncio.get_running_loop().remove_reader(self._report.fileno())


async def enter(connect: Connect, attempt: str, rank: int, argv: list[str], more: dict[str, Any]) -> Entered:
    """`more`: what else the verb `exec` takes: `tty` [rows, columns] or None, `term`. Raises EngineError."""
    link, fds = await asyncio.to_thread(
        _ask, connect, {"verb": "exec", "attempt": attempt, "rank": rank, "argv": argv, **more}
    )
    return Entered(link, fds[0], fds[1:], bool(more.get("tty")))


async def dial(connect: Connect, attempt: str, rank: int, port: int) -> socket.socket:
    """A connection to a port of the task's own loopback. Raises EngineError."""
    loop = asyncio.get_running_loop()
    link, fds = await asyncio.to_thread(_ask, connect, {"verb": "dial", "attempt": attempt, "rank": rank})
    link.close()
    sock = socket.socket(fileno=fds[0])
    try:
        sock.setblocking(False)
        async with asyncio.timeout(_TIMEOUT_S):
            await loop.sock_connect(sock, ("127.0.0.1", port))
        return sock
    except (OSError, TimeoutError) as error:
        sock.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it does not answer"
        raise EngineError(f"Nothing was reached at port {port} of the job's loopback: {why}.") from None


async def _ready(fd: int, *, reading: bool) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_reader, loop.remove_reader) if reading else (loop.add_writer, loop.remove_writer)
    own = os.dup(fd)  # a terminal is read and written at once: a loop takes one callback for each
    try:
        add(own, lambda: ready.done() or ready.set_result(None))
        await ready
    finally:
        remove(own)
        os.close(own)


def _ask(connect: Connect, message: dict[str, Any]) -> tuple[socket.socket, list[int]]:
    """One verb on a connection of its own, and the descriptors it answers with."""
    link = connect()
    try:
        link.settimeout(_TIMEOUT_S)
        link.sendall(protocol.encode({"id": 1, **message}))
        decoder, fds, answers = protocol.Decoder(), list[int](), list[dict[str, Any]]()
        while not answers:
            data, more, _, _ = socket.recv_fds(link, CHUNK, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
            fds += more
            if not data:
                raise Unreachable("the node's agent has closed the connection")
            answers = decoder.feed(data)
        if "error" in answers[0]:
            error = answers[0]["error"]
            raise (Unready if error["code"] == "starting" else InvalidTask)(error["message"])
        if not fds:
            raise EngineError("the node's agent gave no descriptors")
        return link, fds
    except (OSError, protocol.ProtocolError) as error:
        link.close()
        raise Unreachable(f"the node's agent cannot be reached: {error}") from None
    except BaseException:
        link.close()
        raise
