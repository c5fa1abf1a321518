"""The process behind `tidemill local up`: FOLDER/docker.sock, reached by its owner alone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from tidemill.cli.local.api import Docker
from tidemill.cli.local.containers import Containers
from tidemill.cli.local.images import Images
from tidemill.environments.filelock import FileLock
from tidemill.server.listener import Listener, configure

SOCKET, LOCK, PID, LOG = "docker.sock", "lock", "pid", "daemon.log"


def listening(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # of one that was killed: the lock is ours
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o077)
    try:
        server.bind(str(path))
    finally:
        os.umask(before)
    server.listen(64)
    server.setblocking(False)
    return server


async def run(folder: Path) -> None:
    images = Images(folder)
    containers = Containers(folder, images)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listener = Listener(configure(Docker(images, containers).application(), grace_s=5))
    await listener.start([listening(folder / SOCKET)])
    (folder / PID).write_text(str(os.getpid()))
    try:
        await stop.wait()
    finally:
        (folder / PID).unlink(missing_ok=True)
        (folder / SOCKET).unlink(missing_ok=True)
        await containers.end()
        await listener.stop()


def main() -> int:
    folder = Path(sys.argv[1])
    with FileLock(folder / LOCK) as held:
        if not held.try_acquire():
            print("It runs already.")
            return 1
        asyncio.run(run(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
