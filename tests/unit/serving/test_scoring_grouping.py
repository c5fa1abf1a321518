"""When answers of a plain run() are held for one another, and when not, on a clock of the test's."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tidemill.serving.scoring import scorers as module
from tidemill.serving.scoring.http import Head
from tidemill.serving.scoring.log import Log
from tidemill.serving.scoring.request import Request
from tidemill.serving.scoring.scorers import Inline, Pulse
from tidemill.serving.scoring.script import Target
from tidemill.serving.scoring.shared import Board

BRISK = 0.0001
PREEMPTED = 0.25  # a run that takes so long had no processor


class Running(Target):
    """run() takes as long as the body says, in seconds."""

    def __init__(self) -> None:
        self.now = 50.0
        self.sleeps = 0

    def read(self, request: Request) -> Any:
        return float(request.body)

    def one(self, item: Any) -> Any:
        self.now += item
        self.sleeps += item != PREEMPTED
        return item


class Loop:
    def __init__(self) -> None:
        self.soon: list[Any] = []

    def call_soon(self, call: Any) -> None:
        self.soon.append(call)


class Caller:
    gone = False

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def reply(self, request: Request, answer: Any) -> None:
        self._bench.replies.append((float(request.body), self._bench.target.now))


class Bench:
    def __init__(self, several: bool = False) -> None:
        self.target = Running()
        self.loop = Loop()
        self.board = Board()
        self.replies: list[tuple[float, float]] = []
        pulse = Pulse(self.board, 0, several)
        self.scorer = Inline(self.target, pulse, Log("ERROR"), 1e6, self.loop)

    def ask(self, *seconds: float) -> list[float]:
        """Requests that arrive together. -> how long after its own run each was answered."""
        started = self.target.now
        self.replies.clear()
        for each in seconds:
            head = Head("POST", "/score", 1, {"host": "x"})
            self.scorer.submit(cast(Any, Caller(self)), Request(head, str(each).encode()))
        while self.loop.soon:
            self.loop.soon.pop(0)()
        held, ended = [], started
        for each, answered in self.replies:
            ended += each
            held.append(answered - ended)
        assert len(held) == len(seconds)
        return held

    def settle(self) -> None:
        for _ in range(300):
            self.ask(BRISK)


def follow(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "monotonic", lambda: bench.target.now)
    monkeypatch.setattr(module, "usage", lambda: (0.0, bench.target.sleeps))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()
    follow(made, monkeypatch)
    return made


def test_brisk_runs_are_answered_together_within_a_bound(bench: Bench) -> None:
    bench.settle()
    held = bench.ask(*[BRISK] * 40)
    assert held[0] == pytest.approx(Inline.HOLD_S, rel=0.2)
    assert max(held) <= Inline.HOLD_S + BRISK


def test_after_a_slow_run_nobody_waits_for_another(bench: Bench) -> None:
    bench.settle()
    assert max(bench.ask(BRISK, 10.0, BRISK)) == pytest.approx(10.0)  # the first one could not know
    for _ in range(500):
        assert max(bench.ask(BRISK, 10.0, BRISK)) == pytest.approx(0.0, abs=1e-6)
    for _ in range(1000):
        assert max(bench.ask(BRISK, BRISK)) == pytest.approx(0.0, abs=1e-6)


def test_a_run_that_had_no_processor_changes_nothing(bench: Bench) -> None:
    bench.settle()
    bench.ask(PREEMPTED)
    assert max(bench.ask(*[BRISK] * 5)) > BRISK


def test_who_is_preempted() -> None:
    assert module.preempted((1.0, 7), (1.0001, 7), 0.2)
    assert not module.preempted((1.0, 7), (1.0001, 8), 0.2)  # it slept
    assert not module.preempted((1.0, 7), (1.19, 7), 0.2)  # it worked


def test_runs_that_are_a_little_longer_are_answered_at_once_for_a_while(bench: Bench) -> None:
    bench.settle()
    bench.ask(0.005)
    assert max(bench.ask(*[0.005] * 5)) == pytest.approx(0.0, abs=1e-6)
    bench.settle()
    assert max(bench.ask(*[BRISK] * 5)) > BRISK


@pytest.mark.parametrize("several", [False, True])
def test_a_worker_of_several_says_when_its_runs_are_not_brisk(
    several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(several)
    follow(bench, monkeypatch)
    bench.ask(10.0)
    assert bench.board.slow[0] == several
    bench.settle()
    assert bench.board.slow[0] == 0
