"""What a sweep does next, on plain values: start trials, stop some, end."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tidemill.domain.model import JobState
from tidemill.domain.sweeps import policies
from tidemill.domain.sweeps.policies import Reports
from tidemill.domain.sweeps.sampling import Seen
from tidemill.domain.sweeps.space import Point, in_words
from tidemill.domain.sweeps.spec import SweepSpec
from tidemill.domain.units import human_duration, join_words, plural

HOPELESS = 10  # trials that all failed: no more are started
SILENT = 3  # completed trials of which none logged the metric


@dataclass(frozen=True, slots=True)
class Trial:
    """`reports` of the primary metric, in order; `error` of one that failed; `stopped`: by the policy."""

    number: int
    name: str
    point: Point
    state: JobState
    reports: tuple[float, ...] = ()
    error: str = ""
    stopped: bool = False

    @property
    def live(self) -> bool:
        return not self.state.final

    def score(self, maximize: bool) -> float | None:
        return policies.best_of(self.reports, maximize)


@dataclass(frozen=True, slots=True)
class End:
    state: JobState
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Next:
    """`start`: numbers of trials to start; `stop`: trials (by name) to cancel, and why; `end`: once set, the
    sweep is over. `judged`: intervals at which the policy looked at trials."""

    start: tuple[int, ...] = ()
    stop: Mapping[str, str] = field(default_factory=dict[str, str])
    end: End | None = None
    judged: Mapping[str, int] = field(default_factory=dict[str, int])


def best(trials: Sequence[Trial], maximize: bool) -> Trial | None:
    """Of those that ended well or were stopped by the policy; of equal ones the first."""
    scored = [(t.score(maximize), t) for t in trials if t.state is JobState.COMPLETED or t.stopped]
    found = [(score if maximize else -score, -t.number, t) for score, t in scored if score is not None]
    return max(found, key=lambda item: item[:2])[2] if found else None


def seen(trials: Sequence[Trial], maximize: bool) -> tuple[Seen, ...]:
    return tuple(Seen(t.point, t.score(maximize), t.live) for t in trials)


def decide(
    spec: SweepSpec,
    trials: Sequence[Trial],
    *,
    elapsed_us: int,
    canceled: bool = False,
    used_up: bool = False,
    fault: End | None = None,
    judged: Mapping[str, int] | None = None,
    logged: Sequence[str] = (),
) -> Next:
    """`used_up`: the space has no further point; `fault`: why nothing more can be started; `judged`: the last
    interval at which each trial was; `logged`: metrics that completed trials logged, for the sentence."""
    live = {t.name for t in trials if t.live}
    if canceled:
        return Next() if live else Next(end=End(JobState.CANCELED, "Canceled", "Canceled."))
    over = fault or _over(spec, trials, elapsed_us, logged)
    if over is not None:
        reason = "the sweep has ended: " + over.message
        return Next(stop=dict.fromkeys(sorted(live), reason)) if live else Next(end=over)
    all_started = used_up or len(trials) >= spec.total
    if all_started and not live:
        return Next(end=_finished(spec, trials, logged))
    stop: Mapping[str, str] = {}
    now: Mapping[str, int] = {}
    if spec.policy is not None:
        reports = {t.name: Reports(t.reports, t.live) for t in trials}
        stop, now = policies.doomed(spec.policy, reports, spec.maximize, judged or {})
    first = len(trials)
    count = 0 if all_started else max(0, min(spec.at_once - len(live), spec.total - first))
    return Next(tuple(range(first, first + count)), stop, judged=now)


def _over(spec: SweepSpec, trials: Sequence[Trial], elapsed_us: int, logged: Sequence[str]) -> End | None:
    """Why it ends before all trials were tried."""
    if spec.timeout_s is not None and elapsed_us >= spec.timeout_s * 1_000_000:
        late = f"its limit of {human_duration(spec.timeout_s * 1_000_000)} has passed"
        end = _finished(spec, trials, logged)
        code = end.code if end.state is JobState.COMPLETED else "SweepTimeout"
        return replace(end, code=code, message=f"{end.message} After {len(trials)} trials {late}.")
    ended = [t for t in trials if not t.live and not t.stopped]
    if len(ended) >= HOPELESS and all(t.state is JobState.FAILED for t in ended):
        message = f"The first {len(ended)} trials all failed. {_last(ended)}"
        return End(JobState.FAILED, "TrialsFailed", message)
    done = [t for t in ended if t.state is JobState.COMPLETED]
    if len(done) >= SILENT and not any(t.reports for t in trials):
        return _no_metric(spec, len(done), logged)
    return None


def _finished(spec: SweepSpec, trials: Sequence[Trial], logged: Sequence[str]) -> End:
    done = [t for t in trials if t.state is JobState.COMPLETED]
    failed = [t for t in trials if t.state is JobState.FAILED]
    stopped = sum(t.stopped for t in trials)
    winner = best(trials, spec.maximize)
    if winner is not None:
        score = winner.score(spec.maximize)
        values = in_words(spec.space.values(winner.point))
        parts = [plural(len(done), "trial") + " completed"]
        parts += [f"{len(failed)} failed"] if failed else []
        parts += [f"{stopped} stopped early"] if stopped else []
        message = f"Best trial {winner.name}: {spec.metric} {score:g} with {values}. {', '.join(parts)}."
        return End(JobState.COMPLETED, "Completed", message)
    if done:
        return _no_metric(spec, len(done), logged)
    if failed:
        message = f"No trial completed; {len(failed)} failed. {_last(failed)}"
        return End(JobState.FAILED, "TrialsFailed", message)
    return End(JobState.FAILED, "NoTrialCompleted", "No trial completed.")


def _last(failed: Sequence[Trial]) -> str:
    last = failed[-1]
    return f"The last, {last.name}: {last.error}" if last.error else f"The last was {last.name}."


def _no_metric(spec: SweepSpec, count: int, logged: Sequence[str]) -> End:
    names = sorted(set(logged))
    near = [name for name in names if spec.metric in name or name in spec.metric]
    guess = difflib.get_close_matches(spec.metric, names, 1) or near
    hint = f" Did you mean {guess[0]!r}?" if guess else ""
    told = f"They logged {join_words(names, most=12)}." if names else "They logged no metric at all."
    message = (
        f"{plural(count, 'trial')} completed, and none logged the primary metric {spec.metric!r}. "
        f"{told}{hint} "
        f"Log it in the trial: mlflow.log_metric({spec.metric!r}, value)."
    )
    return End(JobState.FAILED, "MetricNotLogged", message)
