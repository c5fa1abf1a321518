from __future__ import annotations

import pytest

from tidemill.agent import protocol


def test_messages_come_out_whole_however_the_bytes_are_cut() -> None:
    sent = [{"id": 1, "verb": "hello"}, {"event": {"text": "ü" * 100}}, {}]
    data = b"".join(protocol.encode(m) for m in sent)
    for step in (1, 3, 7, len(data)):
        decoder = protocol.Decoder()
        got = [m for i in range(0, len(data), step) for m in decoder.feed(data[i : i + step])]
        assert got == sent


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"\0\0\0\1{"])
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.Decoder().feed(data)
