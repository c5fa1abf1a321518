"""What a pipeline does next: any graph, any order of ends, with failures and with a restart at any point."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.model import JobState
from tidemill.domain.pipelines.checking import needs, ordered
from tidemill.domain.pipelines.deciding import At, ChildView, Finish, Gather, Output, Start, Stop, decide
from tidemill.domain.pipelines.model import (
    COMMAND,
    DO_WHILE,
    IF_ELSE,
    PARALLEL_FOR,
    Branch,
    Given,
    Loop,
    Made,
    Pipeline,
    Step,
)


def step(name: str, *wants: str, optional: bool = False, literal: bool = False) -> Step:
    inputs = tuple(
        Given(f"i{n}", f"${{{{parent.jobs.{want}.outputs.o}}}}", optional=optional)
        for n, want in enumerate(wants)
    )
    outputs = (Made("o", "boolean" if literal else "uri_folder"),)
    return Step(name, COMMAND, inputs=inputs, outputs=outputs)


def pipeline(*steps: Step, **more: object) -> Pipeline:
    made = Pipeline(steps, **more)  # type: ignore[arg-type]
    return replace(made, order=ordered(made))


def done(value: str | None = None, uri: str = "u") -> ChildView:
    return ChildView(JobState.COMPLETED, {"o": Output("uri_folder", "" if value else uri, value)})


RUNNING, FAILED = ChildView(JobState.RUNNING), ChildView(JobState.FAILED, error="It broke.")


def starts(decision: object) -> list[str]:
    return [action.instance for action in decision.actions if isinstance(action, Start)]  # type: ignore[attr-defined]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Pipeline, frozenset[str], int]:
    """A pipeline of commands, the steps that will fail, a seed for the order in which they end."""
    count = draw(st.integers(1, 12))
    steps: list[Step] = []
    for number in range(count):
        wants = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        optional = draw(st.booleans())
        steps.append(step(f"s{number}", *(f"s{want}" for want in sorted(wants)), optional=optional))
    draw(st.randoms()).shuffle(steps)
    failing = draw(st.sets(st.sampled_from([s.name for s in steps]), max_size=3))
    made = pipeline(
        *steps,
        continue_on_step_failure=draw(st.booleans()),
        continue_on_failed_optional_input=draw(st.booleans()),
    )
    return made, frozenset(failing), draw(st.integers(0, 2**32))


@given(graphs())
def test_every_step_starts_at_most_once_and_after_what_it_needs(
    case: tuple[Pipeline, frozenset[str], int],
) -> None:
    """The children are all that is known: each decision is made from them alone, as after a restart."""
    made, failing, seed = case
    rng = random.Random(seed)
    wanted = needs(made)
    children: dict[str, ChildView] = {}
    for _ in range(200):
        decision = decide(made, children)
        assert decide(made, dict(children)) == decision
        for instance in starts(decision):
            assert instance not in children
            # Ended, or never to be started: an optional input may come from a step that is blocked.
            assert all(decision.steps[want].over for want in wanted[instance])
            assert all(children[want].state.final for want in wanted[instance] if want in children)
            children[instance] = RUNNING
        finish = [action for action in decision.actions if isinstance(action, Finish)]
        live = [name for name, view in children.items() if not view.state.final]
        if finish:
            assert not live
            break
        if any(isinstance(action, Stop) for action in decision.actions):
            assert not made.continue_on_step_failure
            for name in live:
                children[name] = ChildView(JobState.CANCELED)
            continue
        assert live, "it neither waits for anything nor ends"
        ends = rng.choice(live)
        children[ends] = FAILED if ends in failing else done(uri=ends)
    else:
        raise AssertionError("it does not end")
    ran = {name for name, view in children.items() if view.state is JobState.COMPLETED}
    failed = {name for name, view in children.items() if view.state is JobState.FAILED}
    assert finish[0].state is (JobState.COMPLETED if len(ran) == len(made.steps) else JobState.FAILED)
    if not failed:
        assert len(ran) == len(made.steps)
    if made.continue_on_step_failure:
        for name in (s.name for s in made.steps if s.name not in children):
            assert any(want not in ran for want in wanted[name])


@given(graphs())
def test_a_cancelled_pipeline_starts_nothing(case: tuple[Pipeline, frozenset[str], int]) -> None:
    made, _, _ = case
    first = decide(made, {})
    assert starts(first)
    running = dict.fromkeys(starts(first), RUNNING)
    assert decide(made, running, canceled=True).actions == ()
    ended = {instance: ChildView(JobState.CANCELED) for instance in running}
    (action,) = decide(made, ended, canceled=True).actions
    assert isinstance(action, Finish)
    assert action.state is JobState.CANCELED


def test_a_failure_names_its_step_and_reason() -> None:
    made = pipeline(step("a"), step("b", "a"))
    (action,) = decide(made, {"a": FAILED}).actions
    assert isinstance(action, Finish)
    assert action.message == "1 step failed: a; 1 step not started: b. a: It broke."


@pytest.mark.parametrize(("value", "taken"), [("True", "yes"), ("False", "no")])
def test_a_condition_takes_one_branch_and_skips_what_hangs_on_the_other(value: str, taken: str) -> None:
    made = pipeline(
        step("a", literal=True),
        Step("if", IF_ELSE, branch=Branch("${{parent.jobs.a.outputs.o}}", ("yes",), ("no",))),
        step("yes"),
        step("no"),
        step("after", "yes"),
    )
    assert starts(decide(made, {})) == ["a"]
    children = {"a": done(value)}
    assert starts(decide(made, children)) == [taken]
    children[taken] = done()
    decision = decide(made, children)
    if taken == "yes":
        assert starts(decision) == ["after"]
    else:
        assert decision.steps["after"] is At.SKIPPED
        assert isinstance(decision.actions[0], Finish)
        assert decision.actions[0].state is JobState.COMPLETED


def test_do_while_goes_on_while_its_condition_holds_and_hands_over_what_is_mapped() -> None:
    body = Step("body", COMMAND, inputs=(Given("n", "0"),), outputs=(Made("o", "boolean"),))
    loop = Step("loop", DO_WHILE, loop=Loop("body", "more", (("next", "n"),), 5))
    made = pipeline(body, loop, step("after", "body"))

    def end(number: int, more: str) -> ChildView:
        outputs = {"more": Output("boolean", value=more), "next": Output("integer", value=str(number))}
        return ChildView(JobState.COMPLETED, {**outputs, "o": Output("uri_folder", f"u{number}")})

    children: dict[str, ChildView] = {}
    for number in (1, 2, 3):
        (start,) = decide(made, children).actions
        assert isinstance(start, Start)
        assert start.instance == f"body[{number}]"
        assert start.inputs[0].value == str(number - 1)
        children[start.instance] = end(number, "True" if number < 3 else "False")
    (start,) = decide(made, children).actions
    assert isinstance(start, Start)
    assert (start.step, start.inputs[0].value) == ("after", "u3")


def test_do_while_ends_at_its_limit() -> None:
    body = Step("body", COMMAND, outputs=(Made("o", "boolean"),))
    made = pipeline(body, Step("loop", DO_WHILE, loop=Loop("body", "", (), 2)))
    children = {"body[1]": done(), "body[2]": done()}
    (action,) = decide(made, children).actions
    assert isinstance(action, Finish)
    assert action.state is JobState.COMPLETED


def test_parallel_for_runs_so_many_at_once_and_gathers() -> None:
    body = Step("body", COMMAND, inputs=(Given("n", "0"),), outputs=(Made("o", "uri_folder"),))
    items = '[{"n": 1}, {"n": 2}, {"n": 3}]'
    loop = Step("loop", PARALLEL_FOR, loop=Loop("body", items=items, concurrency=2))
    made = pipeline(body, loop, step("after", "loop"))
    first = decide(made, {})
    assert starts(first) == ["body[0]", "body[1]"]
    assert [a.inputs[0].value for a in first.actions if isinstance(a, Start)] == ["1", "2"]
    children = {"body[0]": done(uri="u0"), "body[1]": RUNNING}
    assert starts(decide(made, children)) == ["body[2]"]
    children |= {"body[1]": done(uri="u1"), "body[2]": done(uri="u2")}
    (gather,) = decide(made, children).actions
    assert gather == Gather("loop", "o", (("0", "u0"), ("1", "u1"), ("2", "u2")))
    (start,) = decide(made, children, {("loop", "o"): "all"}).actions
    assert isinstance(start, Start)
    assert (start.inputs[0].value, start.inputs[0].type) == ("all", "mltable")


def test_parallel_for_over_a_list_that_a_step_made() -> None:
    body = Step("body", COMMAND, inputs=(Given("n", "0"),), outputs=(Made("o", "uri_folder"),))
    loop = Step("loop", PARALLEL_FOR, loop=Loop("body", items="${{parent.jobs.a.outputs.o}}"))
    made = pipeline(step("a", literal=True), body, loop)
    assert starts(decide(made, {})) == ["a"]
    found = decide(made, {"a": done('{"x": {"n": 1}, "y": {"n": 2}}')})
    assert starts(found) == ["body[x]", "body[y]"]


def test_one_failed_item_fails_the_loop_after_the_others_have_ended() -> None:
    body = Step("body", COMMAND, inputs=(Given("n", "0"),))
    made = pipeline(body, Step("loop", PARALLEL_FOR, loop=Loop("body", items='[{"n":1},{"n":2}]')))
    assert decide(made, {"body[0]": FAILED, "body[1]": RUNNING}).actions == ()
    (action,) = decide(made, {"body[0]": FAILED, "body[1]": done()}).actions
    assert isinstance(action, Finish)
    assert action.state is JobState.FAILED
