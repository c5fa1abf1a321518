"""The gateway process: online endpoints, on ports of their own, which go on while control is down.

    python -m tidemill.server.gateway_process --home DIR --port N --http-port N [--helped]

It holds an flock on home/gateway.lock for as long as it lives and writes its pid and ports to
home/gateway.json once it listens, so that a new control process can find and adopt it. It reads
home/serving/routes.json whenever control replaces it. SIGTERM ends it after the requests in flight.
Exit codes: 0 stopped; 3 another gateway holds this home; 4 a port is taken.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tidemill.domain.errors import TidemillError
from tidemill.domain.listening import Listening
from tidemill.domain.model import Scope
from tidemill.domain.serving.routes import FILE, FOLDER, Table, Target
from tidemill.engines import entered
from tidemill.engines.base import EngineError
from tidemill.engines.helped import HelperHost
from tidemill.engines.host import connected
from tidemill.identity.ca import Pair, tls_files
from tidemill.server import side
from tidemill.server.home import Home, read_config
from tidemill.server.ports import SystemClock, listen
from tidemill.server.reading import HomeReader, issuer_of
from tidemill.serving.gateway import prometheus
from tidemill.serving.gateway.access_log import AccessLog
from tidemill.serving.gateway.admission import AML_TOKEN, CHALLENGE
from tidemill.serving.gateway.back_channel import BackChannel
from tidemill.serving.gateway.client import Client
from tidemill.serving.gateway.gateway import Gateway, quiet_collector
from tidemill.serving.gateway.refusals import Denied
from tidemill.serving.gateway.watch import Watch

if TYPE_CHECKING:
    from tidemill.app.serving.endpoint_access import EndpointAccess
    from tidemill.identity.tokens import TokenIssuer
    from tidemill.serving.gateway.dispatch import Dial
    from tidemill.serving.gateway.live import LiveEndpoint

EXIT_HELD = 3
EXIT_PORT_TAKEN = 4
_GRACE_S = 3.0  # control kills after five
log = logging.getLogger("tidemill.gateway")


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    home: Path = options.home
    lock = side.hold(home, side.GATEWAY)
    if lock is None:
        print(f"The gateway of {home} is running already.", file=sys.stderr)
        return EXIT_HELD
    try:
        config = read_config(Home(home))
        listening = config.listening if config is not None else Listening()
        given = side.given(options.sockets)
        https = given.get("port") or listen(options.port, "--gateway-port", others=listening.addresses)
        http = given.get("http_port") or listen(options.http_port, "--gateway-http-port", both=False)
    except TidemillError as error:
        print(error.message, file=sys.stderr)
        return EXIT_PORT_TAKEN
    side.log_to(home / "logs" / "gateway.log", log)
    own = config.own_pair if config is not None else None
    try:
        _serve(home, https, http, listening, own, options.helped)
    finally:
        (home / side.GATEWAY.state).unlink(missing_ok=True)
        os.close(lock)
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tidemill.server.gateway_process")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8446, help="0 takes a free one")
    parser.add_argument("--http-port", type=int, default=8447, help="of loopback only; 0 takes a free one")
    parser.add_argument("--sockets", default="", help="of control: JSON, descriptors that listen there")
    parser.add_argument("--helped", action="store_true", help="nodes are the privileged helper's")
    return parser.parse_args(argv)


def _serve(
    home: Path,
    https: list[socket.socket],
    http: list[socket.socket],
    listening: Listening,
    own: Pair | None,
    helped: bool,
) -> None:
    import uvloop

    _allow_files()

    async def serve() -> None:
        from tidemill.server.tls import Certificates

        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        folder = home / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        tokens = Tokens(home)
        access = AccessLog(home / "logs" / "gateway-access.log")
        gateway = Gateway(loop, dialer(home, helped), tokens.check, access, prometheus.token_of(folder))
        channel = BackChannel(folder, gateway.report)
        gateway.on_news = channel.news
        table = TableFile(folder / FILE, gateway)
        watch = Watch(loop, folder, table.read)
        table.read()
        told = asyncio.create_task(channel.run(), name="back channel")
        context = Certificates(tls_files(home / "tls"), listening.names, own).context()
        servers = [
            await loop.create_server(lambda: Client(gateway, True), sock=sock, ssl=context) for sock in https
        ]
        servers += [await loop.create_server(lambda: Client(gateway, False), sock=sock) for sock in http]
        ports = {"port": https[0].getsockname()[1], "http_port": http[0].getsockname()[1]}
        mark = side.mark_of(listening, own, helped)
        side.write_state(home / side.GATEWAY.state, {"pid": os.getpid(), **ports, "listening": mark})
        quiet_collector()
        log.info("serving on ports %s, pid %d", ports, os.getpid())
        await stopped.wait()
        for server in servers:
            server.close()
        await gateway.drain(_GRACE_S)
        told.cancel()
        watch.close()
        access.close()
        await tokens.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    log.info("stopped")


class Tokens:
    """Checks what is no key, by the home's store and signing keys."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._store = HomeReader(home)
        self._issuer: TokenIssuer | None = None
        self._access: EndpointAccess | None = None

    async def check(self, endpoint: LiveEndpoint, token: str) -> None:
        """Raises Denied."""
        from tidemill.app.serving.endpoint_access import EndpointAccess

        if self._issuer is None or self._access is None:
            self._issuer = issuer_of(self._home)
            self._access = EndpointAccess(self._store, SystemClock().now)
        try:
            if endpoint.record.auth == AML_TOKEN:
                await self._access.check_holder(self._issuer.verify_for_endpoint(token, endpoint.record.uid))
            else:
                await self._access.check_caller(self._issuer.verify(token), arm_id(endpoint.record.path))
        except TidemillError as error:
            more = CHALLENGE if error.status == 401 else ""
            raise Denied(error.status, error.code, error.message, more) from None

    async def close(self) -> None:
        await self._store.close()


def arm_id(path: str) -> str:
    subscription, group, workspace, name = path.split("/")
    return f"{Scope(subscription, group, workspace).arm_id}/onlineEndpoints/{name}"


class TableFile:
    """The route table, as control writes it. One that cannot be read leaves the one before in use."""

    def __init__(self, path: Path, gateway: Gateway) -> None:
        self._path = path
        self._gateway = gateway
        self._decode = msgspec.json.Decoder(Table)
        self._mark: tuple[int, int] | None = None

    def read(self) -> None:
        try:
            with open(self._path, "rb") as file:
                stat = os.fstat(file.fileno())
                mark = stat.st_ino, stat.st_mtime_ns
                if mark == self._mark:
                    return
                table = self._decode.decode(file.read())
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            log.error("the route table is not taken: %s", error)
            return
        self._mark = mark
        self._gateway.apply(table)


def dialer(home: Path, helped: bool) -> Dial:
    """Reaches an instance by its node's agent, which gives a socket of the instance's own network."""
    home = home.resolve()
    helper = HelperHost(home) if helped else None

    def connect(node: str) -> socket.socket:
        if helper is not None:
            return helper.connect(node)
        if "/" in node or node.startswith("."):
            raise EngineError(f"{node!r} is no node")
        return connected(home / "nodes" / node / "agent")

    async def dial(target: Target) -> socket.socket:
        return await entered.dial(partial(connect, target.node), target.attempt, target.rank, target.port)

    return dial


def _allow_files() -> None:
    """Each request may take two connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
