"""The data process: blobs on a port of its own, which keeps serving while control is down or busy.

    python -m tidemill.server.data_process --home DIR --port N [--state FILE]

It holds an flock on home/data.lock for as long as it lives and writes {"pid", "port"} to the state file
(home/data.json) once it listens, so that a new control process can find and adopt it. SIGTERM ends it after
the requests in flight. Exit codes: 0 stopped; 3 another data process holds this home; 4 the port is taken.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tidemill.domain.errors import TidemillError
from tidemill.domain.listening import Listening
from tidemill.identity.ca import Pair, tls_files
from tidemill.server import side
from tidemill.server.home import Home, read_config
from tidemill.server.ports import listen

if TYPE_CHECKING:
    from tidemill.data.blobstore import BlobStore
    from tidemill.wire.blob.call import Call
    from tidemill.wire.blob.errors import StorageError

T = TypeVar("T")

EXIT_HELD = 3
EXIT_PORT_TAKEN = 4
_SWEEP_EVERY_S = 3600.0
_GRACE_S = 3  # control kills after five

log = logging.getLogger("tidemill.data")


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    home: Path = options.home
    lock = side.hold(home, side.DATA)
    if lock is None:
        holder = side.read_state(home, side.DATA)
        pid = holder["pid"] if holder else "unknown"
        print(f"The data process of {home} is running already (pid {pid}).", file=sys.stderr)
        return EXIT_HELD
    try:
        config = read_config(Home(home))
        listening = config.listening if config is not None else Listening()
        sockets = side.given(options.sockets).get("port") or listen(
            options.port, "--data-port", others=listening.addresses
        )
    except TidemillError as error:
        print(error.message, file=sys.stderr)
        return EXIT_PORT_TAKEN
    side.log_to(home / "logs" / side.DATA.log, log)
    state = options.state or home / side.DATA.state
    try:
        _serve(home, sockets, state, listening, config.own_pair if config is not None else None)
    finally:
        state.unlink(missing_ok=True)
        os.close(lock)
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tidemill.server.data_process")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8445, help="0 takes a free one")
    parser.add_argument("--sockets", default="", help="of control: JSON, descriptors that listen there")
    parser.add_argument("--state", type=Path, help="where pid and port are written (home/data.json)")
    return parser.parse_args(argv)


def _serve(
    home: Path, sockets: list[socket.socket], state: Path, listening: Listening, own: Pair | None
) -> None:
    import uvloop

    from tidemill.app import refusal_spool
    from tidemill.app.assets.storage_access import StorageAccess
    from tidemill.data.blobstore import BlobStore
    from tidemill.identity.storage_keys import StorageKeys
    from tidemill.server.listener import Listener, configure
    from tidemill.server.reading import HomeReader, bearer_verifier
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
        side.write_state(state, {"pid": os.getpid(), "port": port, "listening": side.mark_of(listening, own)})
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


def _now() -> int:
    return time.time_ns() // 1000


if __name__ == "__main__":
    sys.exit(main())
