"""How attempts end: what the user asked for, then what the system broke, then the user's first failure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.model import Outcome
from tidemill.domain.outcome import RankEnd, attempt_end

OK = RankEnd(exit_code=0)


def test_every_rank_ended_well():
    end = attempt_end({0: OK, 1: OK}, "")
    assert (end.outcome, end.exit_code, end.code) == (Outcome.SUCCEEDED, 0, "Completed")


def test_the_first_failure_is_told_with_its_rank_and_the_end_of_its_log():
    ranks = {0: RankEnd(exit_code=1, ended_at=20), 1: RankEnd(exit_code=7, ended_at=10)}
    end = attempt_end(ranks, "", "Traceback\nValueError: no\n")
    assert (end.outcome, end.exit_code) == (Outcome.FAILED, 7)
    assert end.message.startswith("Rank 1: The command ended with exit code 7.")
    assert end.message.endswith("ValueError: no")


def test_a_peer_that_was_stopped_does_not_hide_who_failed():
    ranks = {0: RankEnd(signal=15, reason="stopped", ended_at=5), 1: RankEnd(exit_code=3, ended_at=9)}
    assert attempt_end(ranks, "peer").exit_code == 3


def test_a_signal_is_named_and_a_crash_is_the_programs_own():
    end = attempt_end({0: RankEnd(signal=9)}, "")
    assert end.outcome is Outcome.FAILED
    assert end.signal == 9
    assert end.message == (
        "The command was ended by SIGKILL (signal 9), which Tidemill did not send: "
        "the job itself did, or somebody else."
    )
    for number, name in ((4, "SIGILL"), (6, "SIGABRT"), (7, "SIGBUS"), (8, "SIGFPE"), (11, "SIGSEGV")):
        crash = attempt_end({0: RankEnd(signal=number)}, "", "abort\n")
        assert crash.message.split("\n")[0] == f"The command crashed with {name} (signal {number})."


def test_memory_limit_names_the_peak():
    end = attempt_end({0: RankEnd(signal=9, reason="oom", peak_memory=512 * 2**20)}, "")
    assert (end.outcome, end.code) == (Outcome.FAILED, "OutOfMemory")
    assert "512 MiB" in end.message


def test_a_time_limit_cancels_as_azure_does():
    end = attempt_end({0: RankEnd(signal=15, reason="timeout")}, "")
    assert (end.outcome, end.code) == (Outcome.CANCELED, "JobTimeout")


def test_a_lost_node_is_not_the_users_failure():
    end = attempt_end({0: RankEnd(reason="lost", node="cpu-1"), 1: RankEnd(exit_code=1)}, "")
    assert end.outcome is Outcome.SYSTEM_FAILURE
    assert "cpu-1" in end.message


def test_a_command_that_could_not_be_started_says_why():
    end = attempt_end({0: RankEnd(reason="spawn_failed", message="no such directory")}, "")
    assert (end.outcome, end.code) == (Outcome.FAILED, "StartFailed")
    assert "no such directory" in end.message


@pytest.mark.parametrize(
    ("asked", "outcome"), [("cancel", Outcome.CANCELED), ("preempted", Outcome.PREEMPTED)]
)
def test_what_was_asked_for_wins(asked, outcome):
    assert attempt_end({0: RankEnd(reason="lost"), 1: RankEnd(exit_code=1)}, asked).outcome is outcome


ends = st.builds(
    RankEnd,
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    reason=st.sampled_from(["", "oom", "timeout", "stopped", "spawn_failed", "lost"]),
    ended_at=st.integers(0, 100),
    primary=st.booleans(),
)


@given(
    st.dictionaries(st.integers(0, 5), ends, min_size=1), st.sampled_from(["", "cancel", "preempted", "peer"])
)
def test_success_means_that_no_deciding_rank_failed(ranks, asked):
    end = attempt_end(ranks, asked)
    assert end.message
    if end.outcome is Outcome.SUCCEEDED:
        assert all(not (e.exit_code or e.signal or e.reason) for e in ranks.values() if e.primary)
    if asked == "":
        assert end.outcome is not Outcome.PREEMPTED
