"""What is next for a container group, and what its containers' records become."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.containers.deciding import NODE_US, Group, Phase, Run, Start, Stop, decide, superseded
from tidemill.domain.containers.plan import ContainerRecord
from tidemill.domain.containers.records import ContainerNews, after, as_it_is, begun, end_in_words, ended_well
from tidemill.domain.outcome import RankEnd
from tidemill.domain.plan import JobError
from tidemill.domain.settling import Fail, Finish, Gone

NOW = 10_000_000_000
LOST = JobError("NodeLost", "Its node was lost.")


def run(phase: Phase, generation: int = 1, **more: object) -> Run:
    return Run(f"r{generation}", generation, phase, NOW - 1_000_000, **more)  # type: ignore[arg-type]


def kinds(state: str, *runs: Run, wanted: bool = True, generation: int = 1) -> list[type]:
    found = decide(Group(state, wanted, generation, runs), NOW)
    return [type(one) for one in found.decisions]


def test_a_new_group_starts_and_is_done_when_its_containers_were_started() -> None:
    assert kinds("Creating") == [Start]
    assert kinds("Creating", run(Phase.STARTING)) == []
    assert kinds("Creating", run(Phase.RUNNING)) == [Finish]
    assert kinds("Succeeded", run(Phase.RUNNING)) == []


def test_containers_that_ended_by_themselves_are_left_so() -> None:
    assert kinds("Creating", run(Phase.ENDED)) == [Finish]
    assert kinds("Succeeded", run(Phase.ENDED)) == []


def test_what_the_system_lost_is_run_again_after_a_pause() -> None:
    lost = run(Phase.ENDED, failure=LOST, ended_at=NOW - 2_000_000)
    assert kinds("Succeeded", lost) == [Start]
    soon = decide(Group("Succeeded", True, 1, [run(Phase.ENDED, failure=LOST, ended_at=NOW - 1)]), NOW)
    assert soon.decisions == ()
    assert soon.again_at == NOW - 1 + 1_000_000


def test_a_lost_runs_sentence_goes_into_another_one() -> None:
    lost = run(Phase.ENDED, failure=JobError("NodeLost", "It was lost.\nThe end:\nx."), ended_at=1)
    assert decide(Group("Succeeded", True, 1, [lost]), NOW).decisions == (
        Start("its last run was lost: It was lost"),
    )


def test_a_group_that_could_not_be_started_fails_with_the_reason_and_stays_so() -> None:
    lost = run(Phase.ENDED, failure=LOST)
    found = decide(Group("Creating", True, 1, [lost]), NOW)
    assert found.decisions == (Fail(LOST),)
    assert kinds("Failed", lost) == []


def test_an_init_container_that_failed_is_not_tried_for_ever() -> None:
    failed = run(Phase.ENDED, failure=JobError("UserError", "Exit code 9."), ended_at=1, own=True)
    assert kinds("Creating", failed) == [Fail]
    assert kinds("Succeeded", failed) == []


def test_a_node_that_does_not_come() -> None:
    waits = Run("r", 1, Phase.STARTING, NOW - NODE_US, placed=False)
    assert kinds("Creating", waits) == [Fail, Stop]
    early = decide(Group("Creating", True, 1, [run(Phase.STARTING, placed=False)]), NOW)
    assert early.again_at == NOW - 1_000_000 + NODE_US


def test_stop_ends_what_runs_and_is_done_when_it_has_ended() -> None:
    assert kinds("Updating", run(Phase.RUNNING), wanted=False) == [Stop]
    assert kinds("Updating", run(Phase.STOPPING), wanted=False) == []
    assert kinds("Updating", run(Phase.ENDED), wanted=False) == [Finish]
    assert kinds("Succeeded", run(Phase.ENDED), wanted=False) == []


def test_a_restart_ends_the_old_run_before_the_new_one_starts() -> None:
    assert kinds("Updating", run(Phase.RUNNING), generation=2) == [Stop]
    assert kinds("Updating", run(Phase.STOPPING), generation=2) == []
    assert kinds("Updating", run(Phase.ENDED), generation=2) == [Start]


def test_deletion_waits_for_the_last_run() -> None:
    assert kinds("Deleting", run(Phase.RUNNING)) == [Stop]
    assert kinds("Deleting", run(Phase.STOPPING)) == []
    assert kinds("Deleting", run(Phase.ENDED)) == [Gone]
    assert kinds("Deleting") == [Gone]


def test_old_runs_are_forgotten_but_for_the_newest() -> None:
    runs = [Run(f"r{n}", n, Phase.ENDED, n) for n in range(1, 6)]
    assert superseded(Group("Succeeded", True, 5, runs)) == ("r1", "r2", "r3")


PHASES = st.sampled_from(list(Phase))


@given(st.lists(st.tuples(PHASES, st.integers(1, 3), st.booleans()), max_size=5), st.booleans())
def test_never_two_runs_at_once(runs: list[tuple[Phase, int, bool]], wanted: bool) -> None:
    made = [Run(f"r{i}", g, p, i, failure=LOST if lost else None) for i, (p, g, lost) in enumerate(runs)]
    for state in ("Creating", "Updating", "Succeeded", "Failed", "Deleting"):
        found = decide(Group(state, wanted, 3, made), NOW).decisions
        starts = [one for one in found if isinstance(one, Start)]
        assert len(starts) <= 1
        assert not (starts and any(one.live for one in made))
        assert not (starts and not wanted)
        assert not (Gone() in found and any(one.live for one in made))


# --- records

STARTED = ContainerNews("started", 10)
FAILED = ContainerNews("restarting", 20, restarts=1, exit_code=3)
AGAIN = ContainerNews("started", 21, restarts=1)
WAITS = ContainerNews("restarting", 30, restarts=2, exit_code=3, again_in_s=1.0)


def told(*news: ContainerNews, probed: bool = False) -> ContainerRecord:
    record = begun("web", 1, None, probed)
    for one in news:
        record = after(record, one)
    return record


def test_restarts_are_counted_and_the_last_end_is_kept() -> None:
    record = told(STARTED, FAILED, AGAIN)
    assert (record.restarts, record.now.state, record.now.started_at) == (1, "Running", 21)
    assert record.before is not None
    assert (record.before.state, record.before.exit_code, record.before.detail) == ("Terminated", 3, "Error")
    waiting = after(record, WAITS)
    assert (waiting.now.state, waiting.now.detail) == ("Waiting", "CrashLoopBackOff")
    started = next(event for event in waiting.events if event.name == "Started")
    assert (started.count, started.first_at, started.last_at) == (2, 10, 21)
    assert waiting.events[-1].message == "Ended with exit code 3. It starts again in 1 s."


def test_ends_say_why() -> None:
    assert told(STARTED, ContainerNews("ended", 30, exit_code=0)).now.detail == "Completed"
    killed = told(STARTED, ContainerNews("ended", 30, signal=9))
    assert (killed.now.exit_code, killed.now.detail) == (137, "Error")
    assert told(STARTED, ContainerNews("ended", 30, signal=9, reason="oom")).now.detail == "OOMKilled"
    unborn = told(ContainerNews("ended", 5, reason="spawn_failed", message="no such program"))
    assert unborn.now.detail == "StartError"
    assert "no such program" in unborn.events[-1].message


def test_readiness() -> None:
    assert told(STARTED).ready
    waits = told(STARTED, probed=True)
    assert not waits.ready
    ready = after(waits, ContainerNews("ready", 12))
    assert ready.ready
    assert not after(ready, ContainerNews("unready", 13, message="connection refused")).ready


NEWS = st.sampled_from(
    [
        STARTED,
        FAILED,
        AGAIN,
        WAITS,
        ContainerNews("started", 31, restarts=2),
        ContainerNews("ended", 40, exit_code=0),
    ]
)


@given(st.lists(NEWS, max_size=8))
def test_what_is_told_again_changes_nothing(heard: list[ContainerNews]) -> None:
    """A server that comes back hears the restarts and the newest state again."""
    order = [STARTED, FAILED, AGAIN, WAITS]
    record = told(*order)
    for one in heard:
        if one.restarts <= record.restarts and one.kind == "restarting":
            assert after(record, one) == record
    again = told(*order, FAILED, WAITS)
    assert again == record


def test_a_new_attempt_keeps_what_happened() -> None:
    before = told(STARTED, FAILED, AGAIN)
    new = begun("web", 2, before, False)
    assert (new.attempt, new.restarts, new.now.state) == (2, 0, "Waiting")
    assert new.before == before.now
    assert new.events == before.events


def test_what_was_lost_with_its_node_does_not_run_any_more() -> None:
    record = told(STARTED)
    assert as_it_is(record, 1, "", None) == record
    lost = as_it_is(record, 1, "NodeLost", 99)
    assert (lost.now.state, lost.now.finished_at, lost.now.detail) == ("Terminated", 99, "NodeLost")
    waits = as_it_is(record, 2, "", None)
    assert (waits.now.state, waits.before) == ("Waiting", record.now)
    ended = told(STARTED, ContainerNews("ended", 30, exit_code=0))
    assert as_it_is(ended, 1, "Completed", 31) == ended


def test_a_run_says_how_its_containers_ended() -> None:
    well, badly = RankEnd(exit_code=0), RankEnd(exit_code=7)
    assert end_in_words({"a": well, "b": well}) == "Its containers have ended with exit code 0."
    ends = {"a": badly, "b": well, "c": RankEnd(signal=9), "d": RankEnd(reason="oom", signal=9)}
    assert end_in_words(ends) == (
        "Ended: a with exit code 7, b with exit code 0, c by signal 9, d by the memory limit."
    )


def test_who_has_ended_well_has_ended_by_itself() -> None:
    assert ended_well(told(STARTED, ContainerNews("ended", 20, exit_code=0)))
    assert not ended_well(told(STARTED))
    assert not ended_well(told(STARTED, ContainerNews("ended", 20, exit_code=3)))
    assert not ended_well(told(STARTED, ContainerNews("ended", 20, exit_code=0, reason="stopped")))
