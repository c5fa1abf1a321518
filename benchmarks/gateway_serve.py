"""The gateway as its process runs it, but for instances on this host's loopback: one endpoint, a key, 90/10.

python -m benchmarks.gateway_serve PORT BLUE-PORT GREEN-PORT ACCESS-LOG
"""

from __future__ import annotations

import asyncio
import socket
import sys
from hashlib import sha256
from pathlib import Path

import uvloop

from tidemill.domain.serving.routes import Backend, Endpoint, Table, Target
from tidemill.serving.gateway.access_log import AccessLog
from tidemill.serving.gateway.client import Client
from tidemill.serving.gateway.gateway import Gateway, quiet_collector
from tidemill.serving.gateway.live import LiveEndpoint
from tidemill.serving.gateway.refusals import Denied

PATH = "/endpoints/subscription/group/workspace/digits/score"
KEY = "secret"


async def dial(target: Target) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", target.port))
    return sock


async def no_tokens(endpoint: LiveEndpoint, token: str) -> None:
    raise Denied(401, "Unauthorized", "keys only")


def _deployment(name: str, port: int) -> Backend:
    return Backend(name, name, max_concurrent=1000, instances=(Target(name, "node", "attempt", 0, port),))


async def main(port: int, blue: int, green: int, log: str) -> None:
    loop = asyncio.get_running_loop()
    gateway = Gateway(loop, dial, no_tokens, AccessLog(Path(log)), "")
    digests = (sha256(KEY.encode()).hexdigest(), sha256(b"other").hexdigest())
    path = PATH.removeprefix("/endpoints/").removesuffix("/score")
    shares = (("blue", 90), ("green", 10))
    both = (_deployment("blue", blue), _deployment("green", green))
    gateway.apply(Table(1, (Endpoint(path, "uid", "Key", digests, shares, deployments=both),)))
    await loop.create_server(lambda: Client(gateway, False), "127.0.0.1", port)
    quiet_collector()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:4]), sys.argv[4]))
