"""The data process: blobs on a port of its own, which keeps serving while control is down or busy.

    python -m tidemill.server.data_process --home DIR --port N [--state FILE]

It holds an flock on home/data.lock for as long as it lives and writes {"pid", "port"} to the state file
(home/data.json) once it listens, so that a new control process can find and adopt it. SIGTERM ends it after
the requests in flight. Exit codes: 0 stopped; 3 another data process holds this home; 4 the port is taken.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import logging.handlers
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tidemill.domain.errors import TidemillError
from tidemill.domain.listening import Listening
from tidemill.identity.ca import Pair, tls_files
from tidemill.server.home import Home, read_config
from tidemill.server.ports import listen

if TYPE_CHECKING:
    from tidemill.data.blobstore import BlobStore
    from tidemill.domain.model import Caller
    from tidemill.store.api import Read
    from tidemill.store.postgres import PostgresStore
    from tidemill.store.sqlite import SqliteReader
    from tidemill.wire.blob.call import Call
    from tidemill.wire.blob.errors import StorageError

T = TypeVar("T")

EXIT_HELD = 3
EXIT_PORT_TAKEN = 4
LOCK = "data.lock"
STATE = "data.json"
_LOG_BYTES = 10 << 20
_SWEEP_EVERY_S = 3600.0
_GRACE_S = 3  # control kills after five

log = logging.getLogger("tidemill.data")


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    home: Path = options.home
    lock = hold(home)
    if lock is None:
        holder = read_state(options.state or home / STATE)
        pid = holder["pid"] if holder else "unknown"
        print(f"The data process of {home} is running already (pid {pid}).", file=sys.stderr)
        return EXIT_HELD
    try:
        config = read_config(Home(home))
        listening = config.listening if config is not None else Listening()
        sockets = listen(options.port, "--data-port", others=listening.addresses)
    except TidemillError as error:
        print(error.message, file=sys.stderr)
        return EXIT_PORT_TAKEN
    _log_to(home / "logs" / "data.log")
    state = options.state or home / STATE
    try:
        _serve(home, sockets, state, listening, config.own_pair if config is not None else None)
    finally:
        state.unlink(missing_ok=True)
        os.close(lock)
    return 0


def hold(home: Path) -> int | None:
    """Takes home/data.lock: -> its descriptor, to be kept open; None while another data process lives."""
    fd = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def read_state(path: Path) -> dict[str, Any] | None:
    """{"pid", "port", "listening"} of the data process, as far as its file says; None where there is none."""
    try:
        state = json.loads(path.read_bytes())
        listening = str(state.get("listening", ""))
        return {"pid": int(state["pid"]), "port": int(state["port"]), "listening": listening}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_held(home: Path) -> bool:
    """True while a data process of this home lives."""
    fd = hold(home)
    if fd is None:
        return True
    os.close(fd)
    return False


class HomeReader:
    """The home's store, opened with the first request that needs it: control may still be making it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._opened: SqliteReader | PostgresStore | None = None

    async def read(self, fn: Callable[[Read], T]) -> T:
        if self._opened is None:
            from tidemill.store.sql import open_reader

            home = Home(self._home)
            config = read_config(home)
            database = config.database if config is not None else ""
            self._opened = open_reader(database or home.db / "tidemill.db")
        return await self._opened.read(fn)

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()


def bearer_verifier(home: Path) -> Callable[[str], Caller]:
    """Verifies the tokens of this home. Cryptography is loaded with the first token, not before: most
    clients use account keys."""
    made: list[Callable[[str], Caller]] = []

    def verify(token: str) -> Caller:
        if not made:
            made.append(_issuer(home))
        return made[0](token)

    return verify


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tidemill.server.data_process")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8445, help="0 takes a free one")
    parser.add_argument("--state", type=Path, help="where pid and port are written (home/data.json)")
    return parser.parse_args(argv)


def _serve(
    home: Path, sockets: list[socket.socket], state: Path, listening: Listening, own: Pair | None
) -> None:
    import uvloop

    from tidemill.app import refusal_spool
    from tidemill.app.storage_access import StorageAccess
    from tidemill.data.blobstore import BlobStore
    from tidemill.identity.storage_keys import StorageKeys
    from tidemill.server.listener import Listener, configure
    from tidemill.server.tls import Certificates
    from tidemill.wire.blob.app import BlobApp
    from tidemill.wire.blob.call import refusal_of

    store = BlobStore(home / "blobs", _now)
    keys = StorageKeys.load(home / "secrets" / "storage.key")
    reader = HomeReader(home)
    access = StorageAccess(reader, keys, bearer_verifier(home), _now)
    spool = refusal_spool.RefusalSpool(home / "db" / refusal_spool.NAME)

    def refused(call: Call, error: StorageError) -> None:
        scope = store.account_scope(call.account) or ""
        spool.add(refusal_of(call, scope, error, _now()))

    app = BlobApp(store, access, _now, hosts=listening.hosts, refused=refused)
    stop = threading.Event()
    sweeper = threading.Thread(target=_sweep, args=(store, stop), name="sweep", daemon=True)
    port: int = sockets[0].getsockname()[1]

    def started() -> None:
        _write_state(state, {"pid": os.getpid(), "port": port, "listening": mark_of(listening, own)})
        log.info("serving on port %d, pid %d", port, os.getpid())
        sweeper.start()

    async def serve() -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        certificates = Certificates(tls_files(home / "tls"), listening.names, own)
        listener = Listener(configure(app, grace_s=_GRACE_S, tls=certificates.context()))
        await listener.start(sockets)
        started()
        await stopped.wait()
        await listener.stop()
        spool.flush()
        await reader.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    stop.set()
    app.close()
    store.close()
    log.info("stopped")


def _sweep(store: BlobStore, stop: threading.Event) -> None:
    while True:
        try:
            removed = store.sweep()
            if removed:
                log.info("removed %d files that no blob names", removed)
        except Exception:
            log.exception("the sweep failed")
        if stop.wait(_SWEEP_EVERY_S):
            return


def _issuer(root: Path) -> Callable[[str], Caller]:
    from tidemill.app.services import Addresses
    from tidemill.identity.keys import load_or_create
    from tidemill.server.compose import issuer
    from tidemill.server.home import load_config

    home = Home(root)
    config = load_config(home)
    ports = config.ports
    addresses = Addresses(
        f"https://localhost:{ports.get('https', 0)}",
        f"http://127.0.0.1:{ports.get('http', 0)}",
        f"https://localhost:{ports.get('data', 0)}",
    )
    return issuer(home, config, load_or_create(home.secrets), addresses).verify


def mark_of(listening: Listening, own: Pair | None) -> str:
    """What a data process was started for, to be compared with what is wanted now."""
    pair = [str(own.certificate), str(own.key)] if own is not None else []
    return json.dumps([listening.addresses, listening.names, pair])


def _write_state(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(state))
    temporary.replace(path)


def _log_to(path: Path) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=2)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    log.setLevel(logging.INFO)


def _now() -> int:
    return time.time_ns() // 1000


if __name__ == "__main__":
    sys.exit(main())
