"""The control process: `python -m tidemill.server.control --home DIR`.

Two listeners, one application, one loop. One coordinator owns signals and the order of starting and ending.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import ssl
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tidemill import __version__
from tidemill.app.services import Addresses, Services
from tidemill.domain.errors import Conflict, TidemillError
from tidemill.domain.isolation import LEVELS, strictest
from tidemill.engines.helped import HelperHost
from tidemill.identity import ca
from tidemill.identity import keys as key_files
from tidemill.server import exposure, privileges, side
from tidemill.server import home as homes
from tidemill.server.listener import Listener, configure
from tidemill.server.lock import HomeLock
from tidemill.server.ports import SystemClock, listen

HTTPS_PORT, HTTP_PORT, DATA_PORT = 8443, 8440, 8445
_GRACE_S = 2  # open requests and streams get this long at a stop
_log = logging.getLogger("tidemill.control")


@dataclass(frozen=True, slots=True)
class Options:
    """Ports: None means the one of the last start, so that addresses stay valid, at first the usual one;
    0 means the one of the last start if free, else any. The gateway's is at first the one after the data
    process's, if that is free. Empty strings keep what the home has, and so does
    None for `listen` and `name` (words of server/exposure.py)."""

    home: Path
    https_port: int | None = None
    http_port: int | None = None
    data_port: int | None = None
    gateway_port: int | None = None
    database: str | None = None
    region: str = ""
    capacity: str = ""
    listen: str | None = None
    name: str | None = None
    certificate: str = ""
    key: str = ""
    images: str = ""
    isolation: str = ""
    require_isolation: str = ""
    keep_root: bool = False


def run(options: Options, ready: Callable[[dict[str, Any]], None]) -> None:
    """Serves until SIGTERM or SIGINT. `ready` gets what server.json says, once everything answers.
    Raises TidemillError when it cannot start."""
    import uvloop

    typed = [path for path in (options.certificate, options.key) if path and path != exposure.HOME]
    standing = privileges.drop(options.home, typed, keep=options.keep_root)
    home = homes.prepare(options.home)
    lock = HomeLock.acquire(home.lock)
    try:
        _log_to(home.logs / "control.log")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(home, options, ready, standing))
        if standing.helped:
            HelperHost(home.root.resolve()).leave()
    finally:
        lock.release()


async def _serve(
    home: homes.Home,
    options: Options,
    ready: Callable[[dict[str, Any]], None],
    standing: privileges.Standing,
) -> None:
    started = SystemClock().now()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    config = homes.load_config(
        home,
        region=options.region,
        capacity=options.capacity,
        images=options.images,
        isolation=options.isolation,
        require_isolation=options.require_isolation,
        database=options.database,
    )
    words = exposure.Words(options.listen, options.name, options.certificate, options.key)
    config = await exposure.settle(home, config, words, started)
    beyond = config.listening.addresses
    keys = key_files.load_or_create(home.secrets)
    certificates = exposure.certificates(home, config, started)
    async with contextlib.AsyncExitStack() as stack:
        remembered = config.ports
        last = remembered.get("https", 0)
        asked = _asked(options.https_port, last, HTTPS_PORT)
        https = listen(asked, "--https-port", remembered=last, others=beyond)
        stack.callback(_close, https)
        last = remembered.get("http", 0)
        http = listen(_asked(options.http_port, last, HTTP_PORT), "--http-port", remembered=last, both=False)
        stack.callback(_close, http)
        state: dict[str, Any] = {}

        def changed(name: str) -> Callable[[int], None]:
            def note(pid: int) -> None:
                state[name] = pid
                homes.write_server(home, state)

            return note

        data = _find_or_start_data(home, options, config, changed("data_pid"))
        stack.push_async_callback(data.stop)
        gateway = _find_or_start_gateway(home, options, config, standing, data, changed("gateway_pid"))
        stack.push_async_callback(gateway.stop)
        ports = {
            "https": _port(https),
            "http": _port(http),
            "data": data.ports["port"],
            "gateway": gateway.ports["port"],
            "gateway_http": gateway.ports["http_port"],
        }
        if ports != remembered:
            config = replace(config, ports=ports)
            homes.save_config(home, config)
        addresses = Addresses(
            https=f"https://localhost:{ports['https']}",
            http=f"http://127.0.0.1:{ports['http']}",
            data=f"https://localhost:{ports['data']}",
            gateway=f"https://localhost:{ports['gateway']}",
        )
        app = await _start_services(stack, home, config, keys, addresses, standing)
        for process in (data, gateway):
            await process.ready()
            process.supervise()
        await _start_listeners(stack, app, certificates, https, http)
        renewal = asyncio.create_task(exposure.renew(home, config), name="certificates")
        stack.callback(renewal.cancel)

        pids = {"data_pid": data.pid, "gateway_pid": gateway.pid}
        state |= _state(home, config, pids, addresses, started, standing)
        homes.write_server(home, state)
        stack.callback(home.server_json.unlink, missing_ok=True)
        _quiet_collector()
        ready(state)
        _log.info("ready in %.0f ms at %s", (SystemClock().now() - started) / 1000, addresses.https)
        await stop.wait()
        _log.info("stopping")


async def _start_services(
    stack: contextlib.AsyncExitStack,
    home: homes.Home,
    config: homes.Config,
    keys: key_files.Keys,
    addresses: Addresses,
    standing: privileges.Standing,
) -> Any:
    """Opens the home, makes its defaults, starts the controllers. -> the ASGI application."""
    from tidemill.app.people.principals import ensure_owner
    from tidemill.app.upkeep import restored
    from tidemill.app.upkeep.keys import Resealer
    from tidemill.app.upkeep.workspace_deletion import WorkspaceCleaner
    from tidemill.app.workspaces.workspaces import ensure_defaults
    from tidemill.controllers import runtime
    from tidemill.server import compose
    from tidemill.server.asgi import App

    composed = await compose.compose(home, config, keys, addresses, standing, uuid.uuid4().hex)
    services = composed.services
    stack.push_async_callback(compose.close, services)
    await _check_isolation(services, config, standing)
    owner = services.tokens.owner
    await ensure_owner(services, owner.oid, owner.name, owner.client_id)
    await ensure_defaults(services, composed.owner, config.scope)
    await restored.settle(services)
    cleaner = WorkspaceCleaner(services)
    cleaner.start()
    stack.push_async_callback(cleaner.stop)
    resealer = Resealer(services)
    resealer.start()
    stack.push_async_callback(resealer.stop)
    running = await runtime.start(services)
    stack.push_async_callback(running.stop)
    services.live.scheduler = running.pool.scheduler
    return App(services, compose.routes())


async def _check_isolation(services: Services, config: homes.Config, standing: privileges.Standing) -> None:
    """Raises Conflict, saying what is missing, when this host cannot give what was asked for."""
    from tidemill.app.computes.isolation import check_host

    if config.isolation == "rootless" and (standing.helped or os.geteuid() == 0):
        raise Conflict(
            "isolation rootless is that of a server which is not root, and this one is. "
            "Use --isolation full, or start it as another user.",
            "IsolationNotMet",
            "--isolation",
        )
    chosen = config.isolation if config.isolation in LEVELS else ""
    level = strictest(chosen, config.require_isolation)
    if level:
        await check_host(services, level)


def _asked(port: int | None, remembered: int, usual: int) -> int:
    return (remembered or usual) if port is None else port


def _find_or_start_data(
    home: homes.Home, options: Options, config: homes.Config, changed: Callable[[int], None]
) -> side.Supervised:
    """Adopts the data process that a killed server left, unless another port is asked for now, or it was
    started for other addresses and names."""
    mark = side.mark_of(config.listening, config.own_pair)
    found = side.find(home, side.DATA)
    if found is not None:
        if options.data_port in (None, 0, found["port"]) and found["listening"] == mark:
            return _adopted(side.DATA, home, found, changed)
        side.terminate(found["pid"], side.STOP_S)
    remembered = config.ports.get("data", 0)
    asked = _asked(options.data_port, remembered, DATA_PORT)
    sockets = listen(asked, "--data-port", remembered=remembered, others=config.listening.addresses)
    data = side.Supervised(side.DATA, home, {"port": _port(sockets)}, changed, sockets={"port": sockets})
    data.start()
    return data


def _find_or_start_gateway(
    home: homes.Home,
    options: Options,
    config: homes.Config,
    standing: privileges.Standing,
    data: side.Supervised,
    changed: Callable[[int], None],
) -> side.Supervised:
    """The same of the gateway. A port that nobody asked for is any, where the one that it had is taken."""
    flags = ("--helped",) if standing.helped else ()
    mark = side.mark_of(config.listening, config.own_pair, standing.helped)
    found = side.find(home, side.GATEWAY)
    if found is not None:
        if options.gateway_port in (None, 0, found["port"]) and found["listening"] == mark:
            return _adopted(side.GATEWAY, home, found, changed, flags)
        side.terminate(found["pid"], side.STOP_S)
    beside = config.listening.addresses
    usual = config.ports.get("gateway", 0) or _after(data.ports["port"])
    https = listen(options.gateway_port or 0, "--gateway-port", remembered=usual, others=beside)
    last = config.ports.get("gateway_http", 0) or _after(_port(https))
    http = listen(0, "--gateway-port", remembered=last, both=False)
    ports = {"port": _port(https), "http_port": _port(http)}
    sockets = {"port": https, "http_port": http}
    gateway = side.Supervised(side.GATEWAY, home, ports, changed, flags, sockets)
    gateway.start()
    return gateway


def _adopted(
    kind: side.Kind,
    home: homes.Home,
    found: dict[str, Any],
    changed: Callable[[int], None],
    flags: tuple[str, ...] = (),
) -> side.Supervised:
    process = side.Supervised(kind, home, {name: found[name] for name in kind.ports}, changed, flags)
    process.pid = found["pid"]
    _log.info("%s %d adopted", kind.name, process.pid)
    return process


def _after(port: int) -> int:
    return port + 1 if port < 65535 else 0


async def _start_listeners(
    stack: contextlib.AsyncExitStack,
    app: Any,
    certificates: ssl.SSLContext,
    https: list[socket.socket],
    http: list[socket.socket],
) -> None:
    secure = configure(app, grace_s=_GRACE_S, tls=certificates, websockets=True)
    for config, sockets in ((secure, https), (configure(app, grace_s=_GRACE_S, websockets=True), http)):
        listener = Listener(config)
        await listener.start(sockets)
        stack.push_async_callback(listener.stop)


def _state(
    home: homes.Home,
    config: homes.Config,
    pids: dict[str, int],
    addresses: Addresses,
    started: int,
    standing: privileges.Standing,
) -> dict[str, Any]:
    scope = config.scope
    return {
        "version": __version__,
        "home": str(home.root),
        "pid": os.getpid(),
        **pids,
        "uid": os.getuid(),
        "why_root": standing.why_root,
        "addresses": {
            "https": addresses.https,
            "http": addresses.http,
            "data": addresses.data,
            "gateway": addresses.gateway,
        },
        "listen": list(config.listening.addresses),
        "names": list(config.listening.names),
        "fingerprint": ca.known_fingerprint(home.tls),
        "started_at": started,
        "workspace": {"subscription": scope.subscription, "group": scope.group, "name": scope.workspace},
    }


def _quiet_collector() -> None:
    """What was made by the start stays: the collector need not look at it again, nor so often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def _port(sockets: list[socket.socket]) -> int:
    return int(sockets[0].getsockname()[1])


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _log_to(path: Path) -> None:
    logging.Formatter.converter = time.gmtime
    handler = logging.FileHandler(path)
    handler.setFormatter(
        logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%FT%T")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def _sentence(error: Exception) -> str:
    return f"The server could not start: {type(error).__name__}: {error}. logs/control.log has the place."


def main(argv: list[str] | None = None) -> int:
    """Started by `tidemill up --detach`: the outcome goes as one JSON line to --ready-fd."""
    parser = argparse.ArgumentParser(prog="tidemill.server.control")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--https-port", type=int)
    parser.add_argument("--http-port", type=int)
    parser.add_argument("--data-port", type=int)
    parser.add_argument("--gateway-port", type=int)
    parser.add_argument("--database")
    parser.add_argument("--region", default="")
    parser.add_argument("--capacity", default="")
    parser.add_argument("--listen")
    parser.add_argument("--name")
    parser.add_argument("--certificate", default="")
    parser.add_argument("--key", default="")
    parser.add_argument("--images", default="")
    parser.add_argument("--isolation", default="")
    parser.add_argument("--require-isolation", default="")
    parser.add_argument("--keep-root", action="store_true")
    parser.add_argument("--ready-fd", type=int)
    values = vars(parser.parse_args(argv))
    descriptor = values.pop("ready_fd")

    def report(outcome: dict[str, Any]) -> None:
        nonlocal descriptor
        if descriptor is not None:
            with contextlib.suppress(OSError):  # who started us may be gone
                os.write(descriptor, json.dumps(outcome).encode() + b"\n")
            os.close(descriptor)
            descriptor = None  # the number belongs to others from now on

    try:
        run(Options(**values), lambda state: report({"ready": state}))
    except TidemillError as error:
        report({"error": {"code": error.code, "message": error.message, "target": error.target}})
        _log.error("not started: %s", error.message)
        return 1
    except Exception as error:
        report({"error": {"code": "StartFailed", "message": _sentence(error), "target": None}})
        _log.exception("not started, or ended by an error")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
