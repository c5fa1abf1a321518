"""What a pipeline does next: a pure function of the pipeline and of what its children are.

Nothing is remembered between calls: the same children give the same decision, whoever asks and when. A child
is known by its instance: the step's name, in a loop `STEP[ROUND]` (from 1) or `STEP[KEY]`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from tidemill.domain.components import LITERALS, text_of
from tidemill.domain.model import JobState
from tidemill.domain.pipelines import bindings
from tidemill.domain.pipelines.bindings import Ref
from tidemill.domain.pipelines.checking import items_of
from tidemill.domain.pipelines.model import DO_WHILE, LITERAL, Given, Loop, Pipeline, Step
from tidemill.domain.units import join_words, plural


@dataclass(frozen=True, slots=True)
class Output:
    """Data at `uri`, or a literal (`value`). `parts`: of a loop that gathers, (key, its iteration's)."""

    type: str
    uri: str = ""
    value: str | None = None
    parts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ChildView:
    state: JobState
    outputs: Mapping[str, Output] = field(default_factory=dict[str, Output])
    error: str = ""  # the sentence, of one that failed


@dataclass(frozen=True, slots=True)
class Start:
    """`inputs`: with every expression resolved."""

    step: str
    instance: str
    inputs: tuple[Given, ...]


@dataclass(frozen=True, slots=True)
class Gather:
    """The outputs of a loop's iterations are to be put together; asked for until `decide` is told where."""

    step: str
    output: str
    parts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """What still runs is to be cancelled."""

    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """`outputs`: the pipeline's own, of the steps that made them."""

    state: JobState
    code: str
    message: str
    outputs: Mapping[str, Output]


Action = Start | Gather | Stop | Finish


class At(Enum):
    """Where a step is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"
    BLOCKED = "blocked"  # what it needs has failed
    SKIPPED = "skipped"  # in the branch that was not taken, or behind it

    @property
    def over(self) -> bool:
        return self not in (At.WAITING, At.RUNNING)


@dataclass(frozen=True, slots=True)
class Known:
    at: At
    outputs: Mapping[str, Output] = field(default_factory=dict[str, Output])
    taken: bool = False  # of an if_else: its condition
    inputs: tuple[Given, ...] | None = None  # of a loop's body: what the first round begins with


@dataclass(frozen=True, slots=True)
class Decision:
    actions: tuple[Action, ...]
    steps: Mapping[str, At]


_BY_STATE = {JobState.COMPLETED: At.DONE, JobState.FAILED: At.FAILED, JobState.CANCELED: At.CANCELED}


def decide(
    pipeline: Pipeline,
    children: Mapping[str, ChildView],
    gathered: Mapping[tuple[str, str], str] | None = None,
    *,
    canceled: bool = False,
) -> Decision:
    """`gathered`: where what `Gather` asked for lies, by step and output."""
    return _Deciding(pipeline, children, gathered or {}, canceled).run()


class _Waits(Exception):
    """What an input needs is not there: `args[0]` says how the step is then."""


class _Deciding:
    def __init__(
        self,
        pipeline: Pipeline,
        children: Mapping[str, ChildView],
        gathered: Mapping[tuple[str, str], str],
        canceled: bool,
    ) -> None:
        self._pipeline, self._children, self._gathered = pipeline, children, gathered
        self._steps = {step.name: step for step in pipeline.steps}
        self._inputs = {given.name: given for given in pipeline.inputs}
        self._loops = {step.loop.body: step.name for step in pipeline.steps if step.loop is not None}
        self._gates = dict(_gates(pipeline))
        self._known: dict[str, Known] = {}
        self._actions: list[Action] = []
        self._canceled = canceled
        failed = any(child.state in (JobState.FAILED, JobState.CANCELED) for child in children.values())
        self._stops = canceled or (failed and not pipeline.continue_on_step_failure)

    def run(self) -> Decision:
        for name in self._pipeline.order:
            self._known[name] = self._look(self._steps[name])
        live = any(not child.state.final for child in self._children.values())
        if self._stops and live and not self._canceled:
            self._actions.append(Stop("A step has failed, and continue_on_step_failure is false."))
        if not live and not self._actions and (self._stops or all(k.at.over for k in self._known.values())):
            self._actions.append(self._finish())
        return Decision(tuple(self._actions), {name: known.at for name, known in self._known.items()})

    def _look(self, step: Step) -> Known:
        gate = self._gates.get(step.name)
        if gate is not None:
            name, when = gate
            known = self._known[name]
            if known.at is not At.DONE:
                return Known(known.at if known.at.over else At.WAITING)
            if known.taken is not when:
                return Known(At.SKIPPED)
        try:
            if step.branch is not None:
                return Known(At.DONE, taken=_true(self._text(step.branch.condition)))
            if step.loop is not None:
                return self._rounds(step, step.loop) if step.kind == DO_WHILE else self._each(step, step.loop)
            inputs = tuple(value for given in step.inputs if (value := self._value(given)) is not None)
        except _Waits as waits:
            return Known(waits.args[0])
        if step.name in self._loops:
            return Known(At.DONE, inputs=inputs)
        return self._instance(step, step.name, inputs)

    def _instance(self, step: Step, instance: str, inputs: tuple[Given, ...]) -> Known:
        child = self._children.get(instance)
        if child is not None:
            return Known(_BY_STATE.get(child.state, At.RUNNING), child.outputs)
        if self._stops:
            return Known(At.BLOCKED)
        self._actions.append(Start(step.name, instance, inputs))
        return Known(At.WAITING)

    # ------------------------------------------------------------ loops

    def _rounds(self, step: Step, loop: Loop) -> Known:
        body = self._known[loop.body]
        if body.inputs is None:
            return Known(body.at)
        inputs = body.inputs
        for number in range(1, loop.most + 1):
            known = self._instance(self._steps[loop.body], f"{loop.body}[{number}]", inputs)
            if known.at is not At.DONE:
                return known
            if number == loop.most or (loop.condition and not self._goes_on(known, loop.condition)):
                return known
            inputs = _mapped(inputs, known.outputs, loop)
        return Known(At.FAILED)

    def _goes_on(self, known: Known, condition: str) -> bool:
        found = known.outputs.get(condition)
        return found is not None and _true(found.value or "")

    def _each(self, step: Step, loop: Loop) -> Known:
        body = self._known[loop.body]
        if body.inputs is None:
            return Known(body.at)
        try:
            items = items_of(self._text(loop.items))
        except ValueError:
            return Known(At.FAILED)
        seen: dict[str, Known] = {}
        live = 0
        for key, item in items:
            if loop.concurrency and live >= loop.concurrency and f"{loop.body}[{key}]" not in self._children:
                seen[key] = Known(At.WAITING)
                continue
            inputs = _with_item(body.inputs, item)
            seen[key] = self._instance(self._steps[loop.body], f"{loop.body}[{key}]", inputs)
            live += not seen[key].at.over
        places = [known.at for known in seen.values()]
        if any(not at.over for at in places):
            return Known(At.RUNNING)
        worst = next((at for at in (At.FAILED, At.CANCELED, At.BLOCKED) if at in places), None)
        return Known(worst) if worst else self._gather(step, loop, seen)

    def _gather(self, step: Step, loop: Loop, seen: Mapping[str, Known]) -> Known:
        """Literals become a JSON list; data a folder with one part for each item, once it is there."""
        outputs: dict[str, Output] = {}
        for made in self._steps[loop.body].outputs:
            found = {
                key: known.outputs[made.name] for key, known in seen.items() if made.name in known.outputs
            }
            if made.type in LITERALS:
                texts = ", ".join(json.dumps(output.value or "") for output in found.values())
                outputs[made.name] = Output("string", value=f"[{texts}]")
                continue
            parts = tuple((key, output.uri) for key, output in found.items())
            place = self._gathered.get((step.name, made.name))
            if place is not None:
                outputs[made.name] = Output("mltable", place, parts=parts)
            elif self._used(step, made.name):
                self._actions.append(Gather(step.name, made.name, parts))
        return Known(At.DONE, outputs)

    def _used(self, step: Step, output: str) -> bool:
        names = (step.name, step.loop.body if step.loop else "")
        if any(made.source in (f"{name}.{output}" for name in names) for made in self._pipeline.outputs):
            return True
        texts = (
            given.value for other in self._pipeline.steps for given in other.inputs if given.type == LITERAL
        )
        return any(ref.step in names and ref.name == output for text in texts for ref in bindings.refs(text))

    # ------------------------------------------------------------ values

    def _value(self, given: Given) -> Given | None:
        """The input with its expressions resolved, None for no value. Raises _Waits."""
        if given.type != LITERAL or "${{" not in given.value:
            return given
        ref = bindings.only_ref(given.value)
        if ref is None:
            return replace(given, value=self._text(given.value))
        if not ref.step:
            own = self._inputs.get(ref.name)
            return None if own is None else replace(own, name=given.name, mode=given.mode or own.mode)
        output = self._output(ref, given.optional)
        if output is None:
            return None
        if output.value is not None:
            return replace(given, value=output.value)
        return replace(given, value=output.uri, type=output.type, made=True)

    def _output(self, ref: Ref, optional: bool) -> Output | None:
        """None: the step can do without. Raises _Waits."""
        known = self._known[self._loops.get(ref.step, ref.step)]
        without = optional and self._pipeline.continue_on_failed_optional_input
        if known.at is At.SKIPPED:
            if optional:
                return None
            raise _Waits(At.SKIPPED)
        if not known.at.over:
            raise _Waits(At.WAITING)
        output = known.outputs.get(ref.name)
        if known.at is At.DONE and output is None and any(isinstance(a, Gather) for a in self._actions):
            raise _Waits(At.WAITING)
        if known.at is not At.DONE or output is None:
            if without:
                return None
            raise _Waits(At.BLOCKED)
        return output

    def _text(self, text: str) -> str:
        """A text with its expressions filled in. Raises _Waits."""

        def value(ref: Ref) -> str:
            if not ref.step:
                own = self._inputs.get(ref.name)
                return own.value if own is not None else ""
            output = self._output(ref, False)
            assert output is not None
            return output.value if output.value is not None else output.uri

        return bindings.fill(text, value)

    # ------------------------------------------------------------ the end

    def _finish(self) -> Finish:
        by_place: dict[At, list[str]] = {}
        for instance, child in self._children.items():
            if child.state.final:
                by_place.setdefault(_BY_STATE[child.state], []).append(instance)
        for name, known in self._known.items():
            if known.at is At.FAILED and not by_place.get(At.FAILED):
                by_place.setdefault(At.FAILED, []).append(name)
        outputs = dict(self._outputs())
        failed, stopped = by_place.get(At.FAILED, []), by_place.get(At.CANCELED, [])
        blocked = [name for name, known in self._known.items() if known.at in (At.BLOCKED, At.WAITING)]
        if self._canceled:
            return Finish(JobState.CANCELED, "Canceled", "Canceled.", outputs)
        if not failed and not stopped and not blocked:
            done = len(by_place.get(At.DONE, []))
            return Finish(JobState.COMPLETED, "Completed", f"{plural(done, 'step')} completed.", outputs)
        parts = [f"{plural(len(failed), 'step')} failed: {join_words(failed)}"] if failed else []
        parts += [f"{plural(len(stopped), 'step')} canceled: {join_words(stopped)}"] if stopped else []
        parts += [f"{plural(len(blocked), 'step')} not started: {join_words(blocked)}"] if blocked else []
        code = "StepFailed" if failed else "StepCanceled"
        first = next((self._children[name].error for name in failed if name in self._children), "")
        why = f" {failed[0]}: {first}" if first else ""
        return Finish(JobState.FAILED, code, f"{'; '.join(parts)}.{why}", outputs)

    def _outputs(self) -> Iterator[tuple[str, Output]]:
        for made in self._pipeline.outputs:
            name, _, output = made.source.partition(".")
            known = self._known.get(self._loops.get(name, name))
            found = known.outputs.get(output) if known is not None else None
            if found is not None:
                yield made.name, found


def _gates(pipeline: Pipeline) -> Iterator[tuple[str, tuple[str, bool]]]:
    for step in pipeline.steps:
        if step.branch is not None:
            yield from ((name, (step.name, True)) for name in step.branch.then)
            yield from ((name, (step.name, False)) for name in step.branch.otherwise)


def _true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "yes")


def _mapped(inputs: tuple[Given, ...], outputs: Mapping[str, Output], loop: Loop) -> tuple[Given, ...]:
    """The next round's inputs: those of this one, and what its outputs are mapped to."""
    changed: dict[str, Given] = {given.name: given for given in inputs}
    for output, port in loop.mapping:
        found = outputs.get(output)
        if found is None:
            continue
        before = changed.get(port, Given(port, ""))
        if found.value is not None:
            changed[port] = replace(before, value=found.value, type=LITERAL)
        else:
            changed[port] = replace(before, value=found.uri, type=found.type, made=True)
    return tuple(changed.values())


def _with_item(inputs: tuple[Given, ...], item: Mapping[str, object]) -> tuple[Given, ...]:
    changed: dict[str, Given] = {given.name: given for given in inputs}
    for name, value in item.items():
        changed[name] = _item_value(name, value)
    return tuple(changed.values())


def _item_value(name: str, value: object) -> Given:
    if isinstance(value, Mapping):
        data: Mapping[str, object] = value  # pyright: ignore[reportUnknownVariableType]
        uri = data.get("uri") or data.get("path")
        kind = str(data.get("job_input_type") or data.get("jobInputType") or data.get("type") or "uri_folder")
        if uri:
            return Given(name, str(uri), kind, str(data.get("mode") or ""))
        return Given(name, text_of(data.get("value")))
    return Given(name, text_of(value))
