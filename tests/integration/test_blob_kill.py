"""The data process is killed while clients write: what was acknowledged is there, whole; nothing half is."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import random
import signal
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from jobserver import until

sys.path.insert(0, str(Path(__file__).parents[1] / "wire"))
from blob_backends import ACCOUNT, make_home, now, start_data_process, stop

from tidemill.data.blobstore import BlobStore
from tidemill.domain.errors import OutOfSpace
from tidemill.wire.blob.sas import make_sas

KILLS = 10
CONTAINER = "kill"
KIB = 1 << 10


class Writer(threading.Thread):
    """Uploads blobs, small ones whole and large ones in blocks, until told to stop. `known` holds what was
    acknowledged, `maybe` what was under way when the connection broke."""

    def __init__(self, number: int, home: Path, port: int, sas: str, ending: threading.Event) -> None:
        super().__init__(daemon=True)
        self.known: dict[str, bytes] = {}
        self.maybe: dict[str, set[bytes]] = {}
        self._number = number
        self._port = port
        self._sas = sas
        self._ending = ending
        self._random = random.Random(number)
        self._tls = ssl.create_default_context(cafile=str(home / "tls" / "ca.pem"))
        self._connection: http.client.HTTPSConnection | None = None

    def run(self) -> None:
        count = 0
        while not self._ending.is_set():
            count += 1
            name = f"w{self._number}/{count % 25}"
            size = self._random.choice([0, 10, 60 * KIB, 1500 * KIB])
            data = self._random.randbytes(size)
            digest = hashlib.md5(data).digest()
            self.maybe.setdefault(name, set()).add(digest)
            try:
                self._upload(name, data, blocks=count % 3 == 0)
            except (OSError, http.client.HTTPException):
                self._connection = None
                self._ending.wait(0.01)
                continue
            self.known[name] = digest
            self.maybe[name] = set()

    def _upload(self, name: str, data: bytes, blocks: bool) -> None:
        if not blocks:
            self._put(name, data, "", {"x-ms-blob-type": "BlockBlob"})
            return
        ids = []
        for at in range(0, len(data), 400 * KIB):
            ids.append(b64encode(f"{at:012}".encode()).decode())
            self._put(name, data[at : at + 400 * KIB], f"&comp=block&blockid={quote(ids[-1])}", {})
        listed = "".join(f"<Latest>{id}</Latest>" for id in ids)
        self._put(name, f"<BlockList>{listed}</BlockList>".encode(), "&comp=blocklist", {})

    def _put(self, name: str, data: bytes, more: str, headers: dict[str, str]) -> None:
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                "localhost", self._port, timeout=10, context=self._tls
            )
        path = f"/{ACCOUNT}.blob.core.windows.net/{CONTAINER}/{name}?{self._sas}{more}"
        self._connection.request("PUT", path, data, {"Content-Length": str(len(data)), **headers})
        answer = self._connection.getresponse()
        said = answer.read()
        assert answer.status == 201, said


@pytest.mark.kill
@pytest.mark.timeout(120)
def test_what_was_acknowledged_survives_kills(tmp_path: Path) -> None:
    key = make_home(tmp_path)
    setup = BlobStore(tmp_path / "blobs", now)
    setup.ensure_container(ACCOUNT, CONTAINER)
    process, port = start_data_process(tmp_path)
    first = _cpu_seconds(process.pid)
    sas = make_sas(key, ACCOUNT, CONTAINER, None, "rcw", now() + 3600 * 1_000_000)
    ending = threading.Event()
    writers = [Writer(number, tmp_path, port, sas, ending) for number in range(4)]
    for writer in writers:
        writer.start()
    chance = random.Random(7)
    waited: list[float] = []
    cpu: list[float] = []
    try:
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.05, 0.5))  # the instant of the kill is the point
            process.send_signal(signal.SIGKILL)
            process.wait()
            began = time.monotonic()
            process, port = start_data_process(tmp_path, port)
            waited.append(time.monotonic() - began - _on_a_core_or_queued_for_one(process.pid))
            cpu.append(_cpu_seconds(process.pid))
        before = [dict(writer.known) for writer in writers]
        until(lambda: [writer.known for writer in writers] != before, what="a write after the last kill")
        until(lambda: sum(len(writer.known) for writer in writers) > 20, what="that enough is written")
    finally:
        ending.set()
        for writer in writers:
            writer.join(30)
        stop(process)
    # Four writers and other tests share the cores with a start, which makes neither it nor this test worse:
    # it costs about what the first one did, before anything was written, and waits for nothing.
    assert max(cpu) < 2 * first + 0.1, (first, cpu)
    assert min(waited) < 0.5, waited
    for writer in writers:
        for name, digest in writer.known.items():
            data = setup.read_bytes(ACCOUNT, CONTAINER, name)
            assert data is not None, name
            assert hashlib.md5(data).digest() in {digest, *writer.maybe[name]}, name
    known = {
        name: {writer.known.get(name), *writer.maybe[name]} for writer in writers for name in writer.maybe
    }
    page = setup.list(ACCOUNT, CONTAINER)
    for info in page.blobs:
        data = setup.read_bytes(ACCOUNT, CONTAINER, info.name)
        assert data is not None
        assert len(data) == info.size
        assert hashlib.md5(data).digest() in known[info.name], info.name
    setup.close()
    _no_file_is_lost_or_left(tmp_path)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _on_a_core_or_queued_for_one(pid: int) -> float:
    """Seconds, of its first thread."""
    ran, queued, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    return (int(ran) + int(queued)) / 1e9


def _no_file_is_lost_or_left(home: Path) -> None:
    """A sweep an hour later leaves exactly the files that rows name."""
    later = BlobStore(home / "blobs", lambda: now() + 3600 * 1_000_000)
    later.sweep()
    named = {info.generation for info in later.list(ACCOUNT, CONTAINER).blobs}
    db = later._index.read()
    named |= {row[0] for row in db.execute("SELECT generation FROM blocks")}
    there = {path.name for path in (home / "blobs" / "files").rglob("*") if path.is_file()}
    later.close()
    assert there == named


@pytest.mark.root
class TestFullDisk:
    """On a tmpfs of 32 MiB."""

    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Path]:
        if os.geteuid() != 0:
            pytest.skip("needs root to mount a tmpfs")
        with _tmpfs(tmp_path / "disk", "32m") as disk:
            yield disk

    def test_refused_by_that_word_and_works_again(self, small: Path) -> None:
        store = BlobStore(small / "blobs", now)
        store.ensure_container(ACCOUNT, CONTAINER)
        kept: dict[str, bytes] = {}
        refusal = ""
        while not refusal:
            name, data = f"b{len(kept)}", os.urandom(1 << 20)
            try:
                store.put_bytes(ACCOUNT, CONTAINER, name, data)
                kept[name] = data
            except OutOfSpace as error:
                refusal = error.message
        assert "No space left" in refusal
        assert len(kept) > 20
        with pytest.raises(OutOfSpace):
            store.put_bytes(ACCOUNT, CONTAINER, "b0", bytes(8 << 20))
        assert {info.name for info in store.list(ACCOUNT, CONTAINER).blobs} == set(kept)
        assert all(store.read_bytes(ACCOUNT, CONTAINER, name) == data for name, data in kept.items())
        for name in list(kept)[:10]:
            assert store.delete(ACCOUNT, CONTAINER, name)
        store.put_bytes(ACCOUNT, CONTAINER, "again", b"x" * (1 << 20))
        assert len(store.read_bytes(ACCOUNT, CONTAINER, "again") or b"") == 1 << 20
        store.close()

    def test_the_last_byte_is_taken_by_somebody_else(self, small: Path) -> None:
        """Every write fails in its own place: file, directory, index."""
        store = BlobStore(small / "blobs", now)
        store.ensure_container(ACCOUNT, CONTAINER)
        store.put_bytes(ACCOUNT, CONTAINER, "old", b"old")
        with (small / "filler").open("wb", buffering=0) as filler:
            _fill(filler)
            refused = 0
            for number in range(200):
                try:
                    store.put_bytes(ACCOUNT, CONTAINER, "old", f"new {number}".encode())
                except OutOfSpace:
                    refused += 1
            assert refused == 200
            assert store.read_bytes(ACCOUNT, CONTAINER, "old") == b"old"
        (small / "filler").unlink()
        store.put_bytes(ACCOUNT, CONTAINER, "old", b"new")
        assert store.read_bytes(ACCOUNT, CONTAINER, "old") == b"new"
        store.close()

    def test_over_the_wire(self, small: Path) -> None:
        key = make_home(small)
        store = BlobStore(small / "blobs", now)
        store.ensure_container(ACCOUNT, CONTAINER)
        store.close()
        process, port = start_data_process(small)
        try:
            sas = make_sas(key, ACCOUNT, CONTAINER, None, "rcw", now() + 3600 * 1_000_000)
            tls = ssl.create_default_context(cafile=str(small / "tls" / "ca.pem"))
            statuses = [_put(tls, port, sas, f"f{number}", bytes(4 << 20)) for number in range(12)]
            assert statuses[0] == (201, b"")
            status, body = statuses[-1]
            assert status == 507
            assert b"InsufficientStorage" in body
            assert b"No space left" in body
        finally:
            stop(process)


def _fill(file: io.FileIO) -> None:
    with contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.fstatvfs(file.fileno()).f_bavail == 0


def _put(tls: ssl.SSLContext, port: int, sas: str, name: str, data: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection("localhost", port, timeout=60, context=tls)
    path = f"/{ACCOUNT}.blob.core.windows.net/{CONTAINER}/{name}?{sas}"
    connection.request("PUT", path, data, {"x-ms-blob-type": "BlockBlob"})
    answer = connection.getresponse()
    result = answer.status, answer.read()
    connection.close()
    return result


@contextmanager
def _tmpfs(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, text=True
    )
    if done.returncode:
        if os.environ.get("CI"):
            raise RuntimeError(done.stderr)
        pytest.skip(f"no tmpfs here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
