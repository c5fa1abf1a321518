"""The process behind `tidemill connect`: a remote server's ports on this machine's loopback.

    python -m tidemill.cli.remote.relay --home DIR [--ready-fd N]

https, storage and online endpoints are relayed byte by byte: the client's TLS ends at the server, and is
verified there with the server's CA. Plain http ends here and goes on over TLS. One more port is the managed
identity: it gives tokens of whoever is signed in, to who knows the home's secret.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs

from tidemill.cli.errors import NOT_RUNNING, CliError
from tidemill.cli.remote.clienthome import ClientHome, Remote
from tidemill.cli.remote.tokens import RESOURCE, TokenSource
from tidemill.cli.remote.trust import SERVER_NAME, Wire, fetch_ca
from tidemill.domain.errors import Conflict, TidemillError
from tidemill.domain.listening import LOCAL_NAMES, misdirected
from tidemill.server.ports import listen

_CHUNK = 1 << 16
_CONNECT_S = 10.0  # a server that restarts is waited for
_PAUSE_S = 0.2
SERVED = ("https", "http", "data", "gateway")  # a server of an older version has no gateway
_log = logging.getLogger("tidemill.connect")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Relay:
    """Opens connections to the server for those that come in here. `tls`: encrypted here."""

    def __init__(self, remote: Remote, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._remote, self._port, self._tls = remote, port, tls

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await self._open()
        except OSError as error:
            _log.warning("%s: %s", self._remote.shown, error)
            if self._tls is not None:
                writer.write(_gone(self._remote, error))
                with contextlib.suppress(OSError):
                    await writer.drain()
            writer.close()
            return
        await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))
        for end in (there[1], writer):
            end.close()

    async def _open(self) -> Streams:
        loop = asyncio.get_running_loop()
        until = loop.time() + _CONNECT_S
        name = SERVER_NAME if self._tls is not None else None
        while True:
            try:
                opening = asyncio.open_connection(
                    self._remote.host, self._port, ssl=self._tls, server_hostname=name
                )
                return await asyncio.wait_for(opening, _CONNECT_S)
            except ConnectionRefusedError:
                if loop.time() > until:
                    raise
                await asyncio.sleep(_PAUSE_S)
            except TimeoutError:
                raise OSError("it did not answer in time") from None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side ends; the other is told that no more comes."""
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()  # TLS has no half


def _gone(remote: Remote, error: OSError) -> bytes:
    message = f"The server {remote.shown} cannot be reached: {error.strerror or error}."
    body = json.dumps({"error": {"code": "ServerUnreachable", "message": message}}).encode()
    head = f"HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


class Identity:
    """App Service's managed identity as an ASGI application: `/msi/token?resource=…` for the home's
    secret."""

    def __init__(self, home: ClientHome, tokens: TokenSource) -> None:
        self._secret, self._tokens = home.identity_header(), tokens

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            return
        status, body = await self._answer(scope)
        raw = json.dumps(body).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(raw)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": raw})

    async def _answer(self, scope: Any) -> tuple[int, dict[str, Any]]:
        import hmac

        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        problem = misdirected(headers.get(b"host", ""), LOCAL_NAMES)
        if problem is not None:
            return _error(421, "MisdirectedRequest", problem)
        if scope["method"] != "GET" or scope["path"] != "/msi/token":
            return _error(404, "NotFound", "There is only GET /msi/token here.")
        given = headers.get(b"x-identity-header", "")
        if not hmac.compare_digest(given.encode(), self._secret.encode()):
            message = "The header X-IDENTITY-HEADER does not hold this home's secret. Run tidemill env again."
            return _error(401, "InvalidIdentityHeader", message)
        resource = parse_qs(scope["query_string"].decode("latin-1")).get("resource", [""])[0] or RESOURCE
        try:
            token, ends = await asyncio.to_thread(self._tokens.token, resource)
        except CliError as error:
            return _error(503 if error.exit_code == NOT_RUNNING else 401, error.code, error.message)
        answer = {"access_token": token, "expires_on": str(int(ends)), "resource": resource}
        return 200, {**answer, "token_type": "Bearer"}


def _error(status: int, code: str, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"code": code, "message": message}}


@contextlib.asynccontextmanager
async def relayed(remote: Remote, wire: Wire, names: tuple[str, ...]) -> AsyncIterator[bool]:
    """The ports of `names` served on loopback. -> False where the server itself has them: it runs on this
    machine. Raises CliError for a port that another program has."""
    try:
        sockets = {
            name: listen(remote.ports[name], f"its {name} port", both=name != "http") for name in names
        }
    except Conflict:
        if await asyncio.to_thread(_is_here, remote):
            yield False
            return
        ports = ", ".join(str(remote.ports[name]) for name in names)
        raise CliError(
            f"One of the ports {ports} is taken on this machine, and the SDK finds the server only at "
            "the ports that it has there. Stop what uses it (a Tidemill server of your own: tidemill "
            "down), or start the server with other ports.",
            4,
            "PortInUse",
        ) from None
    ports = {**remote.ports, "https": remote.port, "http": remote.port}
    async with contextlib.AsyncExitStack() as stack:
        for name, bound in sockets.items():
            relay = Relay(remote, ports[name], wire.context if name == "http" else None)
            for sock in bound:
                server = await asyncio.start_server(relay.serve, sock=sock)
                stack.callback(server.close)
        yield True


def _is_here(remote: Remote) -> bool:
    try:
        return fetch_ca("127.0.0.1", remote.ports["https"])[1] == remote.fingerprint
    except CliError:
        return False


@contextlib.contextmanager
def http_only(remote: Remote, wire: Wire) -> Iterator[None]:
    """The server's http port alone, in a thread, while a person signs in with a browser of this machine."""
    ready, stop = Event(), Event()
    problem: list[BaseException] = []

    async def serve() -> None:
        try:
            async with relayed(remote, wire, ("http",)):
                ready.set()
                await asyncio.to_thread(stop.wait)
        except BaseException as error:
            problem.append(error)
            ready.set()

    thread = Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    ready.wait()
    if problem:
        raise problem[0]
    try:
        yield
    finally:
        stop.set()
        thread.join(5)


async def run(home: ClientHome, ready: Callable[[dict[str, Any]], None]) -> None:
    """Serves until SIGTERM or SIGINT. `ready` gets what server.json says."""
    from tidemill.server.listener import Listener, configure

    remote = home.remote()
    wire = Wire(remote.host, remote.port, home.ca.read_bytes())
    tokens = TokenSource(home, wire)
    status = await asyncio.to_thread(_status, wire, tokens)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        names = tuple(name for name in SERVED if name in remote.ports)
        relays = await stack.enter_async_context(relayed(remote, wire, names))
        bound = listen(0, "the identity port", remembered=remote.identity_port, both=False)
        identity = Listener(configure(Identity(home, tokens), grace_s=1))
        await identity.start(bound)
        stack.push_async_callback(identity.stop)
        remote = replace(remote, identity_port=_port(bound))
        home.save_remote(remote, home.ca.read_bytes())
        state = _state(home, remote, status, relays)
        home.write_server(state)
        stack.callback(home.server_json.unlink, missing_ok=True)
        ready(state)
        await stop.wait()


def _status(wire: Wire, tokens: TokenSource) -> dict[str, Any]:
    return wire.json("GET", "/api/v1/status", tokens.token(RESOURCE)[0])


def _port(sockets: list[socket.socket]) -> int:
    return int(sockets[0].getsockname()[1])


def _state(home: ClientHome, remote: Remote, status: dict[str, Any], relays: bool) -> dict[str, Any]:
    ports = remote.ports
    first = next(iter(status.get("workspaces") or []), {})
    return {
        "version": status["version"],
        "home": str(home.root),
        "pid": os.getpid(),
        "remote": remote.shown,
        "relays": relays,
        "addresses": {name: _here(name, ports[name]) for name in SERVED if name in ports},
        "identity": f"http://127.0.0.1:{remote.identity_port}",
        "workspace": {
            "subscription": first.get("subscription", ""),
            "group": first.get("resourceGroup", ""),
            "name": first.get("name", ""),
        },
    }


def _here(name: str, port: int) -> str:
    return f"http://127.0.0.1:{port}" if name == "http" else f"https://localhost:{port}"


def main(argv: list[str] | None = None) -> int:
    """The outcome goes as one JSON line to --ready-fd, as the server's does."""
    from tidemill.server.lock import HomeLock

    parser = argparse.ArgumentParser(prog="tidemill.cli.remote.relay")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--ready-fd", type=int)
    options = parser.parse_args(argv)
    home = ClientHome(options.home)

    def report(outcome: dict[str, Any]) -> None:
        if options.ready_fd is not None:
            with contextlib.suppress(OSError):
                os.write(options.ready_fd, json.dumps(outcome).encode() + b"\n")
            os.close(options.ready_fd)
            options.ready_fd = None

    logging.basicConfig(filename=home.log, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        lock = HomeLock.acquire(home.lock)
        try:
            asyncio.run(run(home, lambda state: report({"ready": state})))
        finally:
            lock.release()
    except (CliError, TidemillError) as error:
        report({"error": {"code": error.code, "message": error.message, "target": error.target}})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
