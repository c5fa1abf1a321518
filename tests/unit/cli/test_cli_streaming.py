"""`job stream` and `--stream`: what is printed, and what a broken line does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_fake_server import (
    DETAIL,
    FAILED,
    NATIVE,
    Asked,
    Break,
    Event,
    Fake,
    error,
    run,
)

from tidemill.cli import stream

PATH = f"{NATIVE}/jobs/j1/stream"


def events(*, end: dict[str, Any]) -> list[Event]:
    return [
        Event("1:", "timeline", {"seq": 1, "message": "Submitted to cpu.", "elapsed_s": 0.0}),
        Event("2:", "timeline", {"seq": 2, "message": "A node is opened.", "elapsed_s": 0.123}),
        Event("2:a=6", "log", {"path": "user_logs/std_log.txt", "offset": 0, "text": "line 1"}),
        Event("2:a=14", "log", {"path": "user_logs/std_log.txt", "offset": 6, "text": "\nline ü\n"}),
        Event("2:a=18", "log", {"path": "user_logs/std_log.txt", "offset": 15, "text": "tail"}),
        Event("3:a=18", "status", {"status": end["status"]}),
        Event("3:a=18", "end", end),
    ]


def test_stream_prints_phases_the_log_and_a_closing_block(home: Path, fake: Fake, capsys: Any) -> None:
    fake.on("GET", PATH, lambda asked: events(end=DETAIL))
    assert run("job", "stream", "--name", "j1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "   0.00s  Submitted to cpu.",
        "   0.12s  A node is opened.",
        "line 1",
        "line ü",
        "tail",
    ]
    assert lines[6] == "Completed  j1  in 3.20 s, after 0.40 s of waiting"
    assert [line.strip() for line in lines[7:]] == [
        "accuracy      0.972222",
        "output model  digits:1",
        "price         $0.000310 = 1 x 3.80 s of Standard_DS3_v2 at $0.293/h (list)",
        "page          https://localhost:1/jobs/j1",
    ]


def test_a_failed_job_is_exit_1_and_shows_why(home: Path, fake: Fake, capsys: Any) -> None:
    fake.on("GET", PATH, lambda asked: events(end=FAILED))
    assert run("job", "stream", "--name", "j1") == 1
    out = capsys.readouterr().out
    assert "Failed  j1" in out
    assert "ValueError: no" in out
    assert ["exit", "code", "3"] in [line.split() for line in out.splitlines()]
    assert run("job", "stream", "--name", "j1", "-o", "json") == 1
    streams = capsys.readouterr()
    assert json.loads(streams.out)["status"] == "Failed"
    assert "line 1" in streams.err


def test_a_broken_stream_goes_on_where_it_stopped(home: Path, fake: Fake, capsys: Any) -> None:
    everything = events(end=DETAIL)

    def answer(asked: Asked) -> Any:
        after = asked.query.get("after", "")
        assert asked.headers.get("last-event-id", "") == after
        if not after:
            return [*everything[:3], Break()]
        if after == "2:a=6":
            return [everything[3], Break()]
        assert after == "2:a=14"
        return everything[4:]

    fake.on("GET", PATH, answer)
    assert run("job", "stream", "--name", "j1") == 0
    out = capsys.readouterr().out
    assert [out.count(text) for text in ("Submitted", "line 1", "line ü", "tail", "went away")] == [
        1,
        1,
        1,
        1,
        1,
    ]
    assert len(fake.of("GET", PATH)) == 3


def test_a_server_that_stays_away_ends_the_stream_with_5(
    home: Path, fake: Fake, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(0, 1000, 10))
    fake.on("GET", PATH, lambda asked: [Break()])
    follow = stream.follow
    monkeypatch.setattr(
        stream,
        "follow",
        lambda s, n, p: follow(s, n, p, clock=lambda: next(ticks), sleep=lambda seconds: None),
    )
    assert run("job", "stream", "--name", "j1") == 5
    assert "tidemill job stream --name j1" in capsys.readouterr().err


def test_a_server_that_breaks_off_at_the_end_every_time_is_not_asked_for_ever(
    home: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(0, 1000, 10))
    last = events(end=DETAIL)[5]
    fake.on("GET", PATH, lambda asked: [last, Break()])
    follow = stream.follow
    monkeypatch.setattr(
        stream,
        "follow",
        lambda s, n, p: follow(s, n, p, clock=lambda: next(ticks), sleep=lambda seconds: None),
    )
    assert run("job", "stream", "--name", "j1") == 5


def test_streaming_what_does_not_exist_is_3_at_once(home: Path, fake: Fake) -> None:
    fake.on("GET", PATH, error(404, "ResourceNotFound", "no job"))
    assert run("job", "stream", "--name", "j1") == 3
    assert len(fake.of("GET", PATH)) == 1


def test_ctrl_c_detaches(home: Path, fake: Fake, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, "follow", interrupted)
    assert run("job", "stream", "--name", "j1") == 130
    assert "tidemill job cancel --name j1" in capsys.readouterr().err
