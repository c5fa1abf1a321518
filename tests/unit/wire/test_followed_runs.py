"""Which reads of an ended run are told that it is still finalizing, so that the SDK prints its log."""

from __future__ import annotations

from tidemill.wire.azure.history import MAX_TOLD, TOLD_WINDOW_US, Followed


def test_each_stream_is_told_once():
    followed = Followed()
    for _ in range(2):  # a second stream over the same connection starts anew
        assert [followed.finalizing("job", "a:1", 0) for _ in range(2)] == [True, False]
    assert followed.finalizing("job", "b:2", 0)
    assert followed.finalizing("other", "a:1", 0)


def test_a_client_with_a_connection_for_each_read_comes_to_the_end():
    followed = Followed()
    told = [followed.finalizing("job", f"a:{port}", port) for port in range(MAX_TOLD + 1)]
    assert told == [True] * MAX_TOLD + [False]
    assert followed.finalizing("job", "late", TOLD_WINDOW_US + MAX_TOLD)
