"""What is next for a deployment: new first, then the old; and what fails leaves the old alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.plan import JobError
from tidemill.domain.serving.deciding import (
    Decision,
    Deployment,
    Drain,
    Instance,
    Park,
    Phase,
    Serve,
    Start,
    Stop,
    Wake,
    decide,
    superseded,
)
from tidemill.domain.serving.model import Provisioning
from tidemill.domain.settling import SECOND, Fail, Finish, Gone

NOW = 1_000 * SECOND
ERROR = JobError("UserScriptFailed", "init() failed")


def one(uid: str, phase: Phase, generation: int = 1, **more: object) -> Instance:
    return Instance(uid, generation, phase, NOW - SECOND, **more)  # type: ignore[arg-type]


def asked(*instances: Instance, state: str = "Creating", wanted: int = 1, **more: object) -> Deployment:
    given = {"generation": 1, "serving": 0, "serving_wanted": 1, **more}
    return Deployment(state, wanted=wanted, instances=instances, **given)  # type: ignore[arg-type]


def told(deployment: Deployment) -> list[object]:
    return list(decide(deployment, NOW).decisions)


def kinds(deployment: Deployment) -> list[str]:
    return [type(decision).__name__ for decision in told(deployment)]


def test_a_new_one_starts_its_instances_once() -> None:
    assert told(asked(wanted=2)) == [Start(1, 2, "2 instances wanted, 0 there")]
    assert told(asked(one("a", Phase.STARTING), one("b", Phase.STARTING), wanted=2)) == []


def test_ready_serves_and_is_done_once_the_gateway_knows() -> None:
    ready = one("a", Phase.READY)
    assert kinds(asked(ready)) == ["Serve"]
    assert kinds(asked(ready, serving=1, routed=False)) == []
    assert kinds(asked(ready, serving=1)) == ["Finish"]
    assert kinds(asked(ready, serving=1, state="Succeeded")) == []


def test_an_update_starts_new_ones_and_only_then_drains_the_old() -> None:
    old = one("a", Phase.READY, 1)
    update = {"state": "Updating", "generation": 2, "serving": 1}
    assert told(asked(old, **update)) == [Start(2, 1, "1 instance wanted, 0 there")]
    assert told(asked(old, one("b", Phase.STARTING, 2), **update)) == []
    decisions = told(asked(old, one("b", Phase.READY, 2), **update))
    assert isinstance(decisions[0], Serve)
    assert decisions[1] == Drain(("a",), "newer instances take its place")
    draining = one("a", Phase.DRAINING, 1, draining_at=NOW)
    new = one("b", Phase.READY, 2)
    assert kinds(asked(draining, new, state="Updating", generation=2, serving=2)) == ["Finish"]
    quiet = replace(draining, quiet=True)
    decisions = told(asked(quiet, new, state="Succeeded", generation=2, serving=2))
    assert decisions == [Stop(("a",), "it has no more requests")]


def test_an_update_of_an_update_lets_go_of_the_one_in_between() -> None:
    instances = one("a", Phase.READY, 1), one("b", Phase.STARTING, 2), one("c", Phase.STARTING, 3)
    decisions = told(asked(*instances, state="Updating", generation=3, serving=1))
    assert decisions == [Stop(("b",), "newer instances take its place")]


def test_what_does_not_drain_in_time_is_stopped() -> None:
    late = one("a", Phase.DRAINING, 1, draining_at=NOW - 31 * SECOND)
    busy = one("b", Phase.DRAINING, 1, draining_at=NOW)
    decided = decide(asked(late, busy, state="Succeeded", serving=1, wanted=0), NOW)
    assert decided.decisions == (Stop(("a",), "it has no more requests"),)
    assert decided.again_at == NOW + 30 * SECOND


def test_a_failed_update_leaves_the_old_ones_serving() -> None:
    old = one("a", Phase.READY, 1)
    new = one("b", Phase.STARTING, 2, failure=ERROR)
    update = {"generation": 2, "serving": 1}
    decisions = told(asked(old, new, state="Updating", **update))
    assert decisions == [Fail(ERROR), Stop(("b",), "the update failed")]
    assert told(asked(old, one("b", Phase.ENDED, 2), state="Failed", **update)) == []


def test_an_instance_of_a_failed_update_that_is_lost_is_replaced_by_one_of_the_old_plan() -> None:
    decisions = told(asked(state="Failed", generation=2, serving=1, serving_wanted=2))
    assert decisions == [Start(1, 2, "2 instances wanted, 0 there")]


def test_a_first_one_that_fails_leaves_nothing() -> None:
    new = one("a", Phase.STARTING, failure=ERROR)
    assert told(asked(new)) == [Fail(ERROR), Stop(("a",), "the update failed")]
    assert told(asked(one("a", Phase.ENDED, failure=ERROR, ended_at=NOW), state="Failed")) == []


def test_one_that_is_never_ready_fails_when_its_probes_are_up() -> None:
    slow = one("a", Phase.STARTING, due=NOW + SECOND)
    assert decide(asked(slow), NOW).again_at == NOW + SECOND
    (fail, _) = told(asked(replace(slow, due=NOW)))
    assert isinstance(fail, Fail)
    assert "readiness probe" in fail.error.message


def test_one_that_gets_no_node_fails_with_that() -> None:
    (fail, _) = told(asked(one("a", Phase.STARTING, due=NOW, placed=False)))
    assert isinstance(fail, Fail)
    assert fail.error.code == "OutOfCapacity"


def test_a_failure_from_before_the_update_is_none_of_it() -> None:
    past = one("z", Phase.ENDED, failure=ERROR, ended_at=NOW - 100 * SECOND)
    scaled = asked(past, one("a", Phase.READY), state="Updating", serving=1, asked_at=NOW)
    assert kinds(scaled) == ["Finish"]


def test_what_fails_again_and_again_is_started_ever_more_slowly() -> None:
    ended = [one(f"e{i}", Phase.ENDED, failure=ERROR, ended_at=NOW) for i in range(4)]
    decided = decide(asked(*ended, state="Succeeded", serving=1), NOW)
    assert decided.decisions == ()
    assert decided.again_at == NOW + 8 * SECOND
    assert kinds(asked(*ended, state="Succeeded", serving=1, wanted=0)) == []


def test_fewer_instances_drains_those_that_do_not_answer_first() -> None:
    instances = one("a", Phase.READY), one("b", Phase.UNREADY), one("c", Phase.READY)
    decisions = told(asked(*instances, state="Updating", serving=1, wanted=2))
    assert Drain(("b",), "2 instances wanted") in decisions


def test_deleted_it_drains_stops_and_is_gone() -> None:
    gone = {"state": "Deleting", "serving": 1}
    instances = one("a", Phase.READY), one("b", Phase.STARTING)
    assert told(asked(*instances, **gone)) == [
        Drain(("a",), "the deployment is deleted"),
        Stop(("b",), "the deployment is deleted"),
    ]
    assert told(asked(one("a", Phase.STOPPING), **gone)) == []
    assert told(asked(one("a", Phase.ENDED), **gone)) == [Gone()]
    assert told(asked(**gone)) == [Gone()]


def test_asleep_nothing_is_wanted() -> None:
    assert kinds(asked(wanted=0)) == ["Serve"]
    assert kinds(asked(wanted=0, serving=1)) == ["Finish"]
    (done,) = told(asked(wanted=0, serving=1))
    assert done == Finish("Asleep until a request comes.")
    (done,) = told(asked(wanted=0, serving=1, wakes=False))
    assert done == Finish("No instances are wanted: it answers nothing until it is given some.")


def test_the_newest_ended_ones_are_kept() -> None:
    ended = [one(f"e{i:02d}", Phase.ENDED, ended_at=NOW + i) for i in range(10)]
    assert superseded(asked(*ended)) == ("e00", "e01")


# --- what holds whatever happens

_STATES = st.sampled_from([state.value for state in Provisioning])


@st.composite
def deployments(draw: st.DrawFn) -> Deployment:
    generation = draw(st.integers(1, 3))
    serving = draw(st.integers(0, generation))
    count = draw(st.integers(0, 6))
    instances = [
        Instance(
            f"i{n}",
            draw(st.integers(1, generation)),
            draw(st.sampled_from(list(Phase))),
            NOW - draw(st.integers(0, 100)) * SECOND,
            ended_at=NOW,
            failure=draw(st.sampled_from([None, None, ERROR])),
            draining_at=draw(st.sampled_from([NOW, NOW - 100 * SECOND])),
            quiet=draw(st.booleans()),
            due=draw(st.sampled_from([None, NOW - 1, NOW + SECOND])),
            answers=draw(st.booleans()),
            waking=draw(st.sampled_from([False, False, True])),
        )
        for n in range(count)
    ]
    return Deployment(
        draw(_STATES),
        generation,
        draw(st.integers(0, 4)),
        serving,
        draw(st.integers(0, 4)),
        instances,
        routed=draw(st.booleans()),
        parks=draw(st.booleans()),
    )


def _check_parked(deployment: Deployment, decisions: Sequence[Decision], stopped: list[str]) -> None:
    """At most one stays parked, of what serves, and only while it sleeps or is about to be woken."""
    by_uid = {i.uid: i for i in deployment.instances}
    woken = [by_uid[d.uid] for d in decisions if isinstance(d, Wake)]
    put_away = [by_uid[d.uid] for d in decisions if isinstance(d, Park)]
    assert all(i.phase is Phase.PARKED for i in woken)
    assert all(i.phase is Phase.DRAINING and i.quiet and i.answers for i in put_away)
    left = [i for i in deployment.instances if i.phase is Phase.PARKED and i.uid not in stopped]
    left = [i for i in left if i not in woken] + put_away
    assert len(left) <= deployment.parks
    assert len(woken) <= (not any(i.waking for i in deployment.instances))
    if woken:  # so that it gets its own node
        assert not any(isinstance(d, Start) and d.generation == woken[0].generation for d in decisions)


@settings(max_examples=400)
@given(deployments())
def test_always(deployment: Deployment) -> None:
    decisions = decide(deployment, NOW).decisions
    by_uid = {i.uid: i for i in deployment.instances}
    stopped = [uid for d in decisions if isinstance(d, Stop) for uid in d.uids]
    drained = [uid for d in decisions if isinstance(d, Drain) for uid in d.uids]
    moved = [d.uid for d in decisions if isinstance(d, Park | Wake)]
    assert len({*stopped, *drained, *moved}) == len(stopped) + len(drained) + len(moved)
    _check_parked(deployment, decisions, stopped)
    assert not any(by_uid[uid].phase in (Phase.ENDED, Phase.STOPPING) for uid in (*stopped, *drained))
    switched = any(isinstance(d, Serve) for d in decisions)
    failing = any(isinstance(d, Fail) for d in decisions)
    assert not (switched and failing)
    # What answers for the generation in service is let go only for a newer one, a smaller number or the end.
    serving_ready = [
        i for i in deployment.instances if i.generation == deployment.serving and i.phase is Phase.READY
    ]
    lost = [i for i in serving_ready if i.uid in (*stopped, *drained)]
    if lost and not switched and deployment.state != "Deleting":
        same = deployment.serving == deployment.generation
        wanted = deployment.wanted if same else deployment.serving_wanted
        if deployment.state in ("Succeeded", "Failed") or failing or same:
            assert len(serving_ready) - len(lost) >= min(wanted, len(serving_ready))
        else:
            pytest.fail(f"an update let {lost} go")
    for decision in decisions:
        if isinstance(decision, Start):
            assert decision.count > 0
            assert decision.generation in (deployment.generation, deployment.serving)
        if isinstance(decision, Finish):
            assert deployment.routed
    if any(isinstance(d, Gone) for d in decisions):
        assert deployment.state == "Deleting"
        assert all(i.phase is Phase.ENDED for i in deployment.instances)


def asleep(*instances: Instance, **more: object) -> Deployment:
    given = {"state": "Succeeded", "wanted": 0, "serving": 1, "serving_wanted": 0, "parks": True, **more}
    return asked(*instances, **given)  # type: ignore[arg-type]


def test_one_that_has_no_requests_any_more_is_parked_and_the_others_end() -> None:
    draining = [one(uid, Phase.DRAINING, draining_at=NOW, answers=True) for uid in "abc"]
    assert told(asleep(*draining)) == []
    quiet = [replace(i, quiet=True) for i in draining]
    assert told(asleep(*quiet)) == [
        Park("c", "it waits for the next request"),
        Stop(("a", "b"), "it has no more requests"),
    ]
    parked = one("c", Phase.PARKED)
    assert told(asleep(parked, quiet[0])) == [Stop(("a",), "it has no more requests")]
    assert kinds(asleep(*quiet, parks=False)) == ["Stop"]
    assert kinds(asleep(replace(quiet[0], answers=False))) == ["Stop"]
    late = replace(draining[0], draining_at=NOW - 100 * SECOND)
    assert kinds(asleep(late)) == ["Stop"]  # it may have a request still


def test_the_parked_one_is_woken_first_and_others_follow_when_it_has_its_node() -> None:
    parked = one("c", Phase.PARKED)
    assert told(asleep(parked)) == []
    assert told(asleep(parked, wanted=3)) == [Wake("c", "3 instances wanted, 0 there")]
    waking = one("c", Phase.STARTING, placed=False, waking=True)
    assert told(asleep(waking, wanted=3)) == []
    assert told(asleep(replace(waking, waking=False, placed=True), wanted=3)) == [
        Start(1, 2, "3 instances wanted, 1 there")
    ]


def test_nothing_stays_parked_that_is_not_needed() -> None:
    parked = one("c", Phase.PARKED)
    assert told(asleep(parked, parks=False)) == [Stop(("c",), "it is not needed any more")]
    assert told(asleep(parked, one("d", Phase.READY), wanted=1)) == [
        Stop(("c",), "it is not needed any more")
    ]
    update = told(asleep(parked, state="Updating", generation=2, wanted=1))
    assert update == [Stop(("c",), "it is not needed any more"), Start(2, 1, "1 instance wanted, 0 there")]
    assert kinds(asleep(parked, state="Deleting")) == ["Stop"]
