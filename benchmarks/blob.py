"""Blobs over https: Tidemill's data process against Azurite, in one run on this machine.

    python -m benchmarks.blob [--mib 200] [--rounds 3] [--dir DIR]

Both serve TLS with the same certificate and take turns; the best of the rounds counts. Both flush the data of
an upload and compute its MD5 before they answer; Tidemill also commits its index to disk, Azurite keeps that
in memory and saves it every few seconds. `client` is azure-storage-blob with
its own defaults (blocks of 4 MiB); `plain` is http.client with one Put Blob or Get Blob, whose own cost is
small. Needs npm (Azurite is installed under .cache/azurite).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import os
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "wire"))
from azure.storage.blob import BlobServiceClient, generate_container_sas
from blob_backends import ACCOUNT, Backend, azurite, tidemill

from benchmarks.common import Table

MIB = 1 << 20
SMALL = 300
TARGET, GOAL = 0.8, 1.5  # times Azurite, for the whole blobs
TARGETED = ("upload, client", "upload, plain, MD5 checked", "download, client", "download, plain")


def main(argv: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks blob")
    parser.add_argument("--mib", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path(__file__).parents[1] / ".cache")
    options = parser.parse_args(argv)
    options.dir.mkdir(exist_ok=True)
    data = os.urandom(MIB) * options.mib
    with ExitStack() as stack:
        homes = [Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.dir))) for _ in range(2)]
        backends = [
            stack.enter_context(tidemill(homes[0])),
            stack.enter_context(azurite(homes[1])),
        ]
        best = _measure([_Bench(backend, data) for backend in backends], options.rounds)
    table = Table(
        f"Blobs of {options.mib} MiB, best of {options.rounds}. MiB/s; small: requests/s; CPU: s per GiB",
        ("what", "figure", "Azurite", "ratio", "target", "met"),
    )
    for name in best[0]:
        ours, theirs = best[0][name], best[1][name]
        better = theirs / ours if name.startswith("CPU") else ours / theirs
        target = f">= {TARGET}x, goal {GOAL}" if name in TARGETED else None
        met = better >= TARGET if target else None
        table.add(name, f"{ours:.1f}", f"{theirs:.1f}", better, target, met)
    table.show()
    return table


class _Bench:
    """What is measured on one backend."""

    def __init__(self, backend: Backend, data: bytes) -> None:
        self.backend = backend
        self.data = data
        self.md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
        self.service = BlobServiceClient(
            backend.url, credential=backend.key, connection_verify=backend.ca, retry_total=0
        )
        self.container = self.service.create_container("bench")
        self.tls = ssl.create_default_context(cafile=backend.ca)
        from azure.storage.blob import ContainerSasPermissions

        self.sas = generate_container_sas(
            f"{ACCOUNT}.blob.core.windows.net",
            "bench",
            backend.key,
            permission=ContainerSasPermissions(read=True, write=True, create=True),
            expiry="2099-01-01T00:00:00Z",
        )

    def runs(self) -> dict[str, Callable[[], float]]:
        size = len(self.data) / MIB
        return {
            "upload, client": lambda: size / _timed(self.upload),
            "upload, client, 4 at once": lambda: size / _timed(lambda: self.upload(max_concurrency=4)),
            "upload, plain, MD5 checked": lambda: size / _timed(self.plain_upload),
            "CPU of plain upload": lambda: self.cpu_per_gib(self.plain_upload),
            "download, client": lambda: size / _timed(self.download),
            "download, plain": lambda: size / _timed(self.plain_download),
            "CPU of plain download": lambda: self.cpu_per_gib(self.plain_download),
            "small puts (1 KiB), 8 clients": lambda: SMALL / _timed(self.small_puts),
            "small gets (1 KiB), 8 clients": lambda: SMALL / _timed(self.small_gets),
        }

    def upload(self, **more: int) -> None:
        self.container.upload_blob("big", self.data, overwrite=True, **more)

    def download(self) -> None:
        count = sum(map(len, self.container.download_blob("big").chunks()))
        assert count == len(self.data)

    def plain_upload(self) -> None:
        headers = {"x-ms-blob-type": "BlockBlob", "Content-MD5": self.md5, "x-ms-version": "2021-12-02"}
        assert self.ask("PUT", "plain", self.data, headers) == (201, 0)

    def plain_download(self) -> None:
        assert self.ask("GET", "plain") == (200, len(self.data))

    def ask(
        self, method: str, name: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, int]:
        connection = http.client.HTTPSConnection("localhost", self.backend.port, context=self.tls)
        path = f"/{ACCOUNT}.blob.core.windows.net/bench/{name}?{self.sas}"
        connection.request(method, path, body, headers or {"x-ms-version": "2021-12-02"})
        answer = connection.getresponse()
        buffer = bytearray(MIB)
        count = 0
        while got := answer.readinto(buffer):
            count += got
        connection.close()
        return answer.status, count

    def small_puts(self) -> None:
        self._small(lambda blob: blob.upload_blob(b"x" * 1024, overwrite=True))

    def small_gets(self) -> None:
        self._small(lambda blob: blob.download_blob().readall())

    def _small(self, act: Callable[..., object]) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: act(self.container.get_blob_client(f"small/{n}")), range(SMALL)))

    def cpu_per_gib(self, act: Callable[[], None]) -> float:
        before = _cpu(self.backend.pid)
        act()
        return (_cpu(self.backend.pid) - before) * 1024 * MIB / len(self.data)


def _measure(benches: list[_Bench], rounds: int) -> list[dict[str, float]]:
    best: list[dict[str, float]] = [{} for _ in benches]
    for _ in range(rounds):
        for bench, found in zip(benches, best, strict=True):
            for name, run in bench.runs().items():
                value = run()
                pick = min if name.startswith("CPU") else max
                found[name] = pick(found.get(name, value), value)
    return best


def _timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
