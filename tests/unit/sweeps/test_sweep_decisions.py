"""What a sweep does next, without anything that runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import JobState
from tidemill.domain.sweeps.decide import Trial, best, decide
from tidemill.domain.sweeps.spec import SweepSpec, read_sweep
from tidemill.domain.sweeps.trials import check_command, trial_body

DONE, FAILED, RUNNING, CANCELED = JobState.COMPLETED, JobState.FAILED, JobState.RUNNING, JobState.CANCELED


def body(**more: Any) -> dict[str, Any]:
    return {
        "searchSpace": {"lr": ["uniform", [0.0, 1.0]]},
        "samplingAlgorithm": {"samplingAlgorithmType": "Random"},
        "objective": {"primaryMetric": "acc", "goal": "maximize"},
        "limits": {"maxTotalTrials": 4, "maxConcurrentTrials": 2},
        "trial": {"command": "python t.py --lr ${{search_space.lr}} --d ${{inputs.d}}"},
        **more,
    }


def spec(**more: Any) -> SweepSpec:
    return read_sweep("s", body(**more))


def trial(number: int, state: JobState, *reports: float, **more: Any) -> Trial:
    return Trial(number, f"t{number}", (0.5,), state, tuple(reports), **more)


def next_of(trials: list[Trial], elapsed_us: int = 0, given: SweepSpec | None = None, **more: Any) -> Any:
    return decide(given or spec(), trials, elapsed_us=elapsed_us, **more)


def test_as_many_run_at_once_as_asked_and_no_more_than_all() -> None:
    assert next_of([]).start == (0, 1)
    assert next_of([trial(0, RUNNING), trial(1, RUNNING)]).start == ()
    assert next_of([trial(0, DONE, 0.1), trial(1, RUNNING)]).start == (2,)
    assert (
        next_of([trial(0, DONE, 0.1), trial(1, DONE, 0.2), trial(2, RUNNING), trial(3, RUNNING)]).start == ()
    )


def test_the_best_is_named_at_the_end() -> None:
    end = next_of([trial(0, DONE, 0.1), trial(1, FAILED), trial(2, DONE, 0.7, 0.3), trial(3, DONE, 0.2)]).end
    assert end.state is DONE
    assert end.message == "Best trial t2: acc 0.7 with lr=0.5. 3 trials completed, 1 failed."
    lowest = spec(objective={"primaryMetric": "loss", "goal": "Minimize"})
    assert best([trial(0, DONE, 0.1), trial(1, DONE, 0.1), trial(2, DONE, 0.3)], lowest.maximize).number == 0  # type: ignore[union-attr]


def test_a_metric_that_nobody_logs_ends_it_with_the_names_that_were() -> None:
    quiet = [trial(n, DONE) for n in range(3)] + [trial(3, RUNNING)]
    first = next_of(quiet, logged=["accuracy", "acc1", "loss"])
    assert set(first.stop) == {"t3"}
    end = next_of([*quiet[:3], trial(3, CANCELED)], logged=["accuracy", "acc1", "loss"]).end
    assert (end.state, end.code) == (FAILED, "MetricNotLogged")
    assert "none logged the primary metric 'acc'" in end.message
    assert "They logged acc1, accuracy and loss. Did you mean 'acc1'?" in end.message


def test_trials_that_all_fail_end_it_early_with_the_last_error() -> None:
    many = spec(limits={"maxTotalTrials": 100, "maxConcurrentTrials": 1})
    failed = [trial(n, FAILED, error=f"exit code {n}") for n in range(10)]
    assert next_of(failed[:9], given=many).start == (9,)
    end = next_of(failed, given=many).end
    assert (end.state, end.code) == (FAILED, "TrialsFailed")
    assert end.message == "The first 10 trials all failed. The last, t9: exit code 9"


def test_its_time_limit_ends_what_runs_and_keeps_the_best() -> None:
    limited = spec(limits={"maxTotalTrials": 4, "maxConcurrentTrials": 2, "timeout": "PT10S"})
    now = [trial(0, DONE, 0.4), trial(1, RUNNING, 0.9)]
    assert next_of(now, 9_000_000, limited).start == (2,)
    assert set(next_of(now, 10_000_000, limited).stop) == {"t1"}
    end = next_of([now[0], trial(1, CANCELED, 0.9)], 10_000_000, limited).end
    assert end.state is DONE
    assert end.message.startswith("Best trial t0: acc 0.4")
    assert end.message.endswith("After 2 trials its limit of 10 s has passed.")
    none = next_of([trial(0, CANCELED)], 10_000_000, limited).end
    assert (none.state, none.code) == (FAILED, "SweepTimeout")


def test_a_cancel_waits_for_the_last_trial() -> None:
    assert next_of([trial(0, RUNNING)], canceled=True).end is None
    assert next_of([trial(0, CANCELED)], canceled=True).end.state is CANCELED


def test_stopped_trials_count_with_what_they_reported() -> None:
    found = [trial(0, DONE, 0.4), trial(1, CANCELED, 0.9, stopped=True), trial(2, CANCELED, 1.0)]
    assert best(found, True).number == 1  # type: ignore[union-attr]


@given(
    st.lists(st.sampled_from(["done", "failed", "quiet", "stopped"]), min_size=1, max_size=40),
    st.integers(1, 6),
)
def test_every_sweep_ends_having_started_each_trial_once(outcomes: list[str], at_once: int) -> None:
    limits = {"maxTotalTrials": len(outcomes), "maxConcurrentTrials": at_once}
    given_spec = spec(limits=limits, earlyTermination={"policyType": "MedianStopping"})
    trials: dict[int, Trial] = {}
    for _ in range(3 * len(outcomes) + 5):
        todo = decide(given_spec, list(trials.values()), elapsed_us=0)
        if todo.end is not None:
            assert not any(t.live for t in trials.values())
            return
        assert not set(todo.start) & trials.keys()
        trials |= {n: trial(n, RUNNING) for n in todo.start}
        assert sum(t.live for t in trials.values()) <= at_once
        for name in todo.stop:
            one = next(t for t in trials.values() if t.name == name)
            trials[one.number] = replace(one, state=CANCELED, stopped=bool(todo.judged))
        running = next((t for t in trials.values() if t.live), None)
        if running is not None:
            outcome = outcomes[running.number]
            state = {"failed": FAILED, "stopped": CANCELED}.get(outcome, DONE)
            reports = () if outcome in ("quiet", "failed") else (running.number / 10,)
            trials[running.number] = replace(
                running, state=state, reports=reports, stopped=outcome == "stopped"
            )
    raise AssertionError("it does not end")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"objective": {"primaryMetric": "acc", "goal": "max"}}, "maximize or minimize, not 'max'"),
        ({"objective": {"goal": "maximize"}}, "no primary metric"),
        ({"samplingAlgorithm": {"samplingAlgorithmType": "Baysian"}}, "'Baysian' is not known"),
        ({"limits": {"maxTotalTrials": 0}}, "maxTotalTrials is 0"),
        ({"limits": {"timeout": "soon"}}, "not an ISO 8601 duration"),
        ({"trial": {}}, "no trial with a command"),
        ({"searchSpace": {}}, "search space is empty"),
        ({"samplingAlgorithm": {"samplingAlgorithmType": "Random", "logbase": -1}}, "positive number"),
    ],
)
def test_what_cannot_be_a_sweep_is_refused_with_the_fix(more: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        spec(**more)


def test_the_command_is_checked_and_filled() -> None:
    given_spec = spec()
    with pytest.raises(InvalidRequest, match="names input 'd'"):
        check_command(given_spec, body())
    inputs = {"d": {"jobInputType": "literal", "value": "3"}}
    check_command(given_spec, body(inputs=inputs))
    command = {"command": "python t.py ${{search_space.l}}"}
    wrong = spec(trial=command)
    with pytest.raises(InvalidRequest, match="did you mean 'lr'"):
        check_command(wrong, body(trial=command))
    with pytest.raises(InvalidRequest, match="'lr' is an input and a parameter"):
        check_command(given_spec, body(inputs={"lr": inputs["d"]}))
    outputs = {
        "o": {"jobOutputType": "uri_folder", "assetName": "m", "uri": "azureml://datastores/a/paths/x"}
    }
    made = trial_body(given_spec, body(inputs=inputs, outputs=outputs), 2, (0.25,), "s", {"k": "v"})[
        "properties"
    ]
    assert made["command"] == "python t.py --lr ${{inputs.lr}} --d ${{inputs.d}}"
    assert made["inputs"]["lr"] == {"jobInputType": "literal", "value": "0.25"}
    assert made["tags"] == {"k": "v", "hyperparameters": '{"lr":"0.25"}'}
    uri = "azureml://datastores/a/paths/x/${{name}}/"
    assert made["outputs"] == {"o": {"jobOutputType": "uri_folder", "uri": uri}}
