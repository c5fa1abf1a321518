from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.model import AttemptState, JobState, NodeState, Outcome
from tidemill.domain.states import (
    Accept,
    Context,
    Delay,
    End,
    Limits,
    Reject,
    Retry,
    after_attempt,
    cancel_target,
    cancel_timetable,
    deadline,
    is_final,
    moves,
    propose,
)

KINDS = (JobState, AttemptState, NodeState)
J, A, N = JobState, AttemptState, NodeState


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_has_a_way_to_an_end_and_only_final_ones_have_no_deadline(kind: type) -> None:
    for state in kind:
        reached, todo = {state}, [state]
        while todo:
            new = moves(todo.pop()) - reached
            reached |= new
            todo += new
        assert any(is_final(each) for each in reached)
        assert all(type(each) is kind for each in reached)
        assert (deadline(state, 0) is None) == is_final(state)
        assert propose(state, state) == Accept(changes=False)
    assert {s for s in JobState if is_final(s)} == {s for s in JobState if s.final}
    assert is_final(AttemptState.ENDED)
    assert is_final(NodeState.CLOSED)


def test_kinds_with_the_same_word_are_kept_apart() -> None:
    assert JobState.RUNNING == NodeState.RUNNING  # StrEnum: that is why the tables are per kind
    assert moves(JobState.RUNNING) != moves(NodeState.RUNNING)
    assert propose(NodeState.RUNNING, NodeState.IDLE) == Accept()
    assert deadline(JobState.STARTING, 0) != deadline(AttemptState.STARTING, 0)


@pytest.mark.parametrize(
    ("current", "target"),
    [
        (J.QUEUED, J.PREPARING),
        (J.PREPARING, J.PROVISIONING),
        (J.PROVISIONING, J.STARTING),
        (J.STARTING, J.RUNNING),
        (J.RUNNING, J.FINALIZING),
        (J.FINALIZING, J.COMPLETED),
        (J.RUNNING, J.QUEUED),
        (J.CANCEL_REQUESTED, J.CANCELED),
        (A.STOPPING, A.COLLECTING),
        (N.LOST, N.IDLE),
    ],
)
def test_what_is_allowed(current: J, target: J) -> None:
    assert propose(current, target) == Accept()


def test_what_is_refused_says_why() -> None:
    verdict = propose(J.COMPLETED, J.RUNNING, Context("train"))
    assert verdict == Reject(
        "AlreadyFinal", "Job 'train' is Completed: that is final, it cannot become Running."
    )
    verdict = propose(J.CANCEL_REQUESTED, J.COMPLETED, Context("train"))
    assert isinstance(verdict, Reject)
    assert verdict.code == "CancelRequested"
    verdict = propose(N.OPENING, N.RUNNING, Context("n1"))
    assert verdict == Reject(
        "IllegalTransition",
        "Node 'n1' cannot go from Opening to Running: from there it goes to Closed, Closing, Idle or Lost.",
    )
    verdict = propose(N.RUNNING, N.RUNNING, Context("n1", holder="a", taker="b"))
    assert isinstance(verdict, Reject)
    assert verdict.code == "NodeTaken"
    assert propose(N.RUNNING, N.RUNNING, Context("n1", holder="a", taker="a")) == Accept(changes=False)


@pytest.mark.parametrize(
    ("current", "target"),
    [
        (J.RUNNING, J.FAILED),
        (J.RUNNING, J.QUEUED),
        (J.CANCEL_REQUESTED, J.CANCELED),
        (A.STOPPING, A.COLLECTING),
        (A.ASSIGNED, A.ENDED),
        (N.RUNNING, N.IDLE),
        (N.LOST, N.CLOSED),
    ],
)
def test_nothing_ends_before_its_processes_are_proved_gone(current: J, target: J) -> None:
    assert isinstance(propose(current, target, Context(processes_gone=False)), Delay)
    assert propose(current, target, Context(processes_gone=True)) == Accept()


def test_a_waiting_job_has_no_processes_to_wait_for() -> None:
    assert propose(J.QUEUED, J.CANCELED, Context(processes_gone=False)) == Accept()
    assert propose(J.QUEUED, J.CANCEL_REQUESTED, Context(processes_gone=False)) == Accept()


def test_where_a_cancel_leads() -> None:
    assert cancel_target(J.QUEUED) is J.CANCELED
    assert cancel_target(J.RUNNING) is J.CANCEL_REQUESTED
    assert cancel_target(J.CANCEL_REQUESTED) is None
    assert cancel_target(J.COMPLETED) is None
    for state in JobState:
        target = cancel_target(state)
        assert target is None or propose(state, target) == Accept()


@given(st.floats(0, 1e4), st.floats(0, 1e4))
def test_the_cancel_timetable_is_in_order(grace: float, close_grace: float) -> None:
    table = cancel_timetable(grace, close_grace)
    assert 0 == table.term_s <= table.kill_s <= table.closed_s < table.done_s


def test_the_published_timetable() -> None:
    assert cancel_timetable(10, 20).sentence == (
        "SIGTERM at once, SIGKILL after 10 s, the node is closed after 30 s; "
        "the job is Canceled after 40 s at the latest."
    )


def test_what_becomes_of_a_job_after_an_attempt() -> None:
    assert after_attempt(Outcome.SUCCEEDED, 0) == End(J.COMPLETED, "Completed", "Completed.")
    assert after_attempt(Outcome.FAILED, 2, "ExitCode", "exit code 3") == End(
        J.FAILED, "ExitCode", "exit code 3"
    )
    assert after_attempt(Outcome.CANCELED, 0, "JobTimeout", "too long") == End(
        J.CANCELED, "JobTimeout", "too long"
    )
    for count in (1, 2):
        assert isinstance(after_attempt(Outcome.SYSTEM_FAILURE, count, "NodeLost", "Lost."), Retry)
    end = after_attempt(Outcome.SYSTEM_FAILURE, 3, "NodeLost", "Node n1 was lost.")
    assert isinstance(end, End)
    assert (end.state, end.code) == (J.FAILED, "NodeLost")
    assert end.message.endswith("Last: Node n1 was lost.")
    assert isinstance(after_attempt(Outcome.PREEMPTED, 0, preemptions=1_000), Retry)
    assert isinstance(after_attempt(Outcome.PREEMPTED, 9, preemptions=1), Retry)  # costs no retry
    end = after_attempt(Outcome.PREEMPTED, 0, preemptions=3, limits=Limits(preemptions=2))
    assert isinstance(end, End)
    assert end.code == "TooManyPreemptions"


def test_deadlines_follow_limits() -> None:
    found = deadline(J.RUNNING, 5, timeout_s=60)
    assert found is not None
    assert (found.at, found.owner) == (60_000_005, "attempts")
    found = deadline(N.IDLE, 5, idle_us=7)
    assert found is not None
    assert found.at == 12
