"""The floor of the API's figures: a bare ASGI handler behind uvicorn (uvloop, httptools) that reads SQLite
and answers those bytes. No token, no routes, no rights, no errors.

    python -m benchmarks.bare DATABASE [CERTIFICATE KEY]    prints its port

`/one/NAME` answers the row of that name; `/list` the newest 100 rows, joined as ARM lists are.
The database has the table items (name TEXT PRIMARY KEY, body BLOB).
"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def running(
    folder: Path, items: Sequence[tuple[str, bytes]], certificate: str = "", key: str = ""
) -> Iterator[tuple[int, int]]:
    """-> (pid, port) of a floor that holds `items`, in a process of its own."""
    path = folder / ("bare-tls.db" if key else "bare.db")
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE items (name TEXT PRIMARY KEY, body BLOB) WITHOUT ROWID")
    database.executemany("INSERT INTO items VALUES (?, ?)", items)
    database.commit()
    database.close()
    argv = [sys.executable, "-m", "benchmarks.bare", str(path), *([certificate, key] if key else [])]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    try:
        assert child.stdout is not None
        yield child.pid, int(child.stdout.readline())
    finally:
        child.terminate()
        child.wait()


def application(path: str) -> Any:
    database = sqlite3.connect(path, isolation_level=None)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        asked: str = scope["path"]
        if asked == "/list":
            found = database.execute("SELECT body FROM items ORDER BY name DESC LIMIT 100").fetchall()
            body = b'{"value":[' + b",".join([row[0] for row in found]) + b"]}"
        else:
            body = database.execute("SELECT body FROM items WHERE name = ?", (asked[5:],)).fetchone()[0]
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def main() -> None:
    import uvicorn
    import uvloop

    path, *tls = sys.argv[1:]
    config = uvicorn.Config(
        application(path),
        http="httptools",
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve([listener]))


if __name__ == "__main__":
    main()
