"""Many clients of an endpoint at once, as fast as they can, in a process of their own:
`python loadclient.py PORT PATH KEY CLIENTS LEAST`. It ends when its standard input has ended and LEAST
requests were answered, and says on standard output what was not answered with 200:
{"answered": n, "failed": [[seconds since the epoch, what], …]}.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Load:
    """Started, and stopped for its result."""

    def __init__(self, port: int, path: str, key: str, clients: int, least: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), str(port), path, key, str(clients), str(least)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> dict[str, Any]:
        said, _ = self._process.communicate(timeout=120)
        return json.loads(said)


async def client(port: int, request: bytes, end: asyncio.Event, least: int, result: dict[str, Any]) -> None:
    reader, writer = None, None
    while not end.is_set() or result["answered"] < least:
        try:
            if writer is None or reader is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 100)
            status = head.split(b" ", 2)[1].decode()
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            body = await asyncio.wait_for(reader.readexactly(length), 100)
            if status == "200":
                result["answered"] += 1
            else:
                result["failed"].append([time.time(), f"{status} {body.decode()[:300]}"])
                await asyncio.sleep(0.01)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError, StopIteration) as error:
            result["failed"].append([time.time(), repr(error)])
            writer = None
            await asyncio.sleep(0.01)


async def main(port: int, path: str, key: str, clients: int, least: int) -> None:
    body = b'{"data": [1, 2]}'
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    result: dict[str, Any] = {"answered": 0, "failed": []}
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), lambda: sys.stdin.read(1) or end.set())
    request = head.encode() + body
    await asyncio.gather(*(client(port, request, end, least, result) for _ in range(clients)))
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
