"""What is finished, kept by the service: segments of records, numbered, each whole or absent.

A segment that is sent again replaces itself, so a lost answer harms nothing. The service may be away for as
long as it likes: it is asked again until it answers.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

MOST_BYTES = 12 << 20  # of a record, and about that of a segment; the service takes 16 MiB
PAUSE_S, MOST_PAUSE_S, TIMEOUT_S = 0.1, 2.0, 90.0


class Gone(Exception):
    """The service refuses the job's word: it has ended, or was deleted."""


class Ledger:
    """`url`: of the job, `http://host:port/…`. One thread uses it."""

    def __init__(self, url: str, token: str, wait: Callable[[float], None] = time.sleep) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._path, self._token, self._wait = parts.path.rstrip("/"), token, wait
        self._connection: http.client.HTTPConnection | None = None
        self.next = 0

    def load(self, digest: str) -> list[dict[str, Any]]:
        """Every record of batches that were cut the same way."""
        found: list[dict[str, Any]] = []
        while True:
            status, body = self._call("GET", f"{digest}/{self.next}", None)
            if status == 404:
                return found
            found += [json.loads(line) for line in body.splitlines()[1:] if line]
            self.next += 1

    def store(self, digest: str, records: list[bytes], progress: dict[str, Any]) -> None:
        """Returns once it is on disk. Without records only the progress is told."""
        head = json.dumps({"progress": progress}).encode()
        number = self.next if records else "progress"
        self._call("POST", f"{digest}/{number}", b"\n".join([head, *records]))
        if records:
            self.next += 1

    def _call(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        pause = PAUSE_S
        while True:
            try:
                status, answer = self._once(method, path, body)
            except (OSError, http.client.HTTPException):
                self._drop()
                status, answer = 503, b""
            if status < 300 or (status == 404 and method == "GET"):
                return status, answer
            if 400 <= status < 500 and status not in (408, 429):
                raise Gone(f"{method} {path}: {status} {answer[:500].decode('utf-8', 'replace')}")
            self._wait(pause)
            pause = min(pause * 2, MOST_PAUSE_S)

    def _once(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        headers = {"Authorization": "Bearer " + self._token, "Content-Type": "application/x-ndjson"}
        self._connection.request(method, f"{self._path}/{path}", body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
