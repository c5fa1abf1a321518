"""An encrypted backup opens whole or not at all."""

from __future__ import annotations

import io

import pytest

from tidemill.domain.errors import Conflict, InvalidRequest
from tidemill.server.backups.sealing import CHUNK, MAGIC, Opener, Sealer


def sealed(data: bytes) -> bytes:
    sink = io.BytesIO()
    sealer = Sealer(sink, "horse")
    for start in range(0, len(data), 300_000):
        sealer.write(data[start : start + 300_000])
    sealer.close()
    return sink.getvalue()


def opened(raw: bytes, passphrase: str = "horse") -> bytes:
    source = io.BytesIO(raw)
    assert source.read(len(MAGIC)) == MAGIC
    opener = Opener(source, passphrase)
    found = b""
    while piece := opener.read(70_000):
        found += piece
    return found


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_what_went_in_comes_out(size: int):
    data = bytes(n % 251 for n in range(1000)) * (size // 1000 + 1)
    assert opened(sealed(data[:size])) == data[:size]


def test_another_passphrase():
    with pytest.raises(InvalidRequest, match="passphrase is not the one"):
        opened(sealed(b"word"), "donkey")


def test_changed_cut_and_moved_chunks():
    raw = sealed(b"a" * CHUNK + b"b" * CHUNK + b"c")
    head, chunk = len(MAGIC) + 23, CHUNK + 16
    first, second, last = (
        raw[head : head + chunk],
        raw[head + chunk : head + 2 * chunk],
        raw[head + 2 * chunk :],
    )
    start = raw[:head]
    for changed in (
        start + first + second,  # its end is missing, at a chunk's end
        start + first + last,
        start + first + second[:-1],
        start + first + second[:5] + bytes([second[5] ^ 1]) + second[6:] + last,
        start + first + second + last + first,
    ):
        with pytest.raises(Conflict, match="damaged"):
            opened(changed)
    with pytest.raises(InvalidRequest):
        opened(start + second + first + last)
    with pytest.raises(Conflict, match="damaged"):
        opened(raw[: len(MAGIC) + 10])
