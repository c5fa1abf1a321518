"""The least that a proxy on uvloop can do: bytes from each caller to a kept connection and back, unread. It
checks nothing, splits nothing, counts nothing: nobody could serve with it. What it costs is the floor.

python -m benchmarks.gateway_floor PORT BACKEND-PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

from tidemill.serving.gateway.gateway import quiet_collector


class Upstream(asyncio.Protocol):
    def __init__(self, idle: list[Upstream]) -> None:
        self.transport = cast(asyncio.Transport, None)
        self.caller: asyncio.Transport | None = None
        self._idle = idle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        caller, self.caller = self.caller, None
        if caller is not None:
            self._idle.append(self)
            if not caller.is_closing():
                caller.write(data)


class Caller(asyncio.Protocol):
    def __init__(self, idle: list[Upstream]) -> None:
        self._transport = cast(asyncio.Transport, None)
        self._idle = idle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        upstream = self._idle.pop()
        while upstream.transport.is_closing():
            upstream = self._idle.pop()
        upstream.caller = self._transport
        upstream.transport.write(data)


async def main(port: int, backend: int) -> None:
    loop = asyncio.get_running_loop()
    idle: list[Upstream] = []
    for _ in range(128):
        _, upstream = await loop.create_connection(lambda: Upstream(idle), "127.0.0.1", backend)
        idle.append(upstream)
    await loop.create_server(lambda: Caller(idle), "127.0.0.1", port)
    quiet_collector()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:3])))
