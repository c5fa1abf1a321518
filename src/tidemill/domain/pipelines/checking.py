"""What is refused of a pipeline before anything is stored: names that do not exist, types that do not fit,
cycles with their path."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from tidemill.domain.components import LITERALS, Component, Port, fits, literal
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.pipelines import bindings
from tidemill.domain.pipelines.bindings import Ref, Unreadable
from tidemill.domain.pipelines.model import (
    DO_WHILE,
    IF_ELSE,
    LITERAL,
    PARALLEL_FOR,
    PENDING,
    Given,
    Pipeline,
    Step,
)
from tidemill.domain.units import join_words

JOBS = "properties.jobs"


def unknown(what: str, name: str, names: Sequence[str], target: str) -> InvalidRequest:
    """`Step 'a': its component has no input 'rat'. Did you mean 'rate'?`"""
    near = difflib.get_close_matches(name, names, 1, 0.6)
    hint = (
        f"Did you mean {near[0]!r}?"
        if near
        else f"There are: {join_words(sorted(names), most=12) or 'none'}."
    )
    return InvalidRequest(f"{what} {name!r}. {hint}", "NotFoundInPipeline", target)


def checked(
    pipeline: Pipeline, components: Mapping[str, Component | None], template: Component | None
) -> Pipeline:
    """The pipeline with the order of its steps. Raises InvalidRequest with the step at fault and the fix."""
    steps = {step.name: step for step in pipeline.steps}
    _check_control(pipeline, steps, components)
    look = _Look(pipeline, steps, components, template)
    for step in pipeline.steps:
        for given in step.inputs:
            look.input(step, given)
        if step.branch is not None:
            look.condition(step, step.branch.condition)
        if step.loop is not None and step.kind == PARALLEL_FOR:
            look.items(step)
    return replace(pipeline, order=ordered(pipeline))


class _Look:
    def __init__(
        self,
        pipeline: Pipeline,
        steps: Mapping[str, Step],
        components: Mapping[str, Component | None],
        template: Component | None,
    ) -> None:
        self._inputs = {given.name: given for given in pipeline.inputs}
        self._declared = {port.name: port for port in template.inputs} if template else {}
        self._steps, self._components = steps, components

    def input(self, step: Step, given: Given) -> None:
        component = self._components[step.name]
        assert component is not None
        port = component.port(given.name)
        assert port is not None
        where = f"{JOBS}.{step.name}.inputs.{given.name}"
        if given.type != LITERAL:
            self._fit(step, port, given.type, "is given a", where)
            return
        ref = self._read(step, given.value, where, only=True)
        if ref is None:
            for inner in self._read_all(step, given.value, where):
                if self._type_of(step, inner, where) not in (*LITERALS, LITERAL, "any", ""):
                    raise InvalidRequest(
                        f"Step {step.name!r}: {inner.written} in input {given.name!r} is data, and "
                        "cannot be a part of a text.",
                        "InputTypeMismatch",
                        where,
                    )
            if "${{" not in given.value:
                self._literal(step, port, given.value, where)
            return
        kind = self._type_of(step, ref, where)
        if kind == "" and not (port.optional or port.default is not None):
            raise InvalidRequest(
                f"Step {step.name!r}: input {port.name!r} is bound to the pipeline's input {ref.name!r}, "
                "which is optional and has no value. Give it one, or make the step's input optional, too.",
                "InputNotBound",
                where,
            )
        if kind == LITERAL:
            self._literal(step, port, self._inputs[ref.name].value, where)
        elif kind:
            self._fit(step, port, kind, f"is bound to {ref.written}, a", where)

    def condition(self, step: Step, text: str) -> None:
        where = f"{JOBS}.{step.name}.condition"
        ref = self._read(step, text, where, only=True)
        if ref is None:
            if text.strip().lower() not in ("true", "false"):
                raise InvalidRequest(
                    f"Step {step.name!r}: condition {text!r} is neither true, false nor an expression.",
                    target=where,
                )
            return
        kind = self._type_of(step, ref, where)
        if kind not in ("boolean", "string", "any", LITERAL):
            raise InvalidRequest(
                f"Step {step.name!r}: its condition {ref.written} is of type {kind}, and must be a boolean.",
                "InputTypeMismatch",
                where,
            )

    def items(self, step: Step) -> None:
        assert step.loop is not None
        where = f"{JOBS}.{step.name}.items"
        if self._read(step, step.loop.items, where, only=True) is not None:
            self._read_all(step, step.loop.items, where)
            return
        body = self._components[step.loop.body]
        names = [port.name for port in body.inputs] if body else []
        try:
            found = items_of(step.loop.items)
        except ValueError as error:
            raise InvalidRequest(f"Step {step.name!r}: {error}.", "InvalidItems", where) from error
        for _, item in found:
            for name in item:
                if name not in names:
                    raise unknown(
                        f"Step {step.name!r}: the loop's body {step.loop.body!r} has no input",
                        name,
                        names,
                        where,
                    )

    def _literal(self, step: Step, port: Port, text: str, where: str) -> None:
        if text == PENDING:
            return
        if port.type in LITERALS:
            try:
                literal(port, text, f"Step {step.name!r}")
            except InvalidRequest as error:
                error.target = where
                raise
        elif port.type != "any":
            self._fit(step, port, "string", f"is given the text {text[:60]!r}, a", where)

    def _fit(self, step: Step, port: Port, given: str, how: str, where: str) -> None:
        if not fits(given, port.type):
            raise InvalidRequest(
                f"Step {step.name!r}: input {port.name!r} is of type {port.type} and {how} {given}. "
                "Bind something of its type.",
                "InputTypeMismatch",
                where,
            )

    def _read(self, step: Step, text: str, where: str, *, only: bool) -> Ref | None:
        try:
            return bindings.only_ref(text)
        except Unreadable as error:
            raise InvalidRequest(f"Step {step.name!r}: {error}.", "InvalidExpression", where) from error

    def _read_all(self, step: Step, text: str, where: str) -> Sequence[Ref]:
        try:
            found = bindings.refs(text)
        except Unreadable as error:
            raise InvalidRequest(f"Step {step.name!r}: {error}.", "InvalidExpression", where) from error
        for ref in found:
            self._type_of(step, ref, where)
        return found

    def _type_of(self, step: Step, ref: Ref, where: str) -> str:
        """A type of data, a type of literals, LITERAL (its value is known), "" (no value). Raises."""
        if not ref.step:
            if ref.name in self._inputs:
                return self._inputs[ref.name].type
            if ref.name in self._declared:
                return ""
            names = [*self._inputs, *self._declared]
            raise unknown(f"Step {step.name!r}: the pipeline has no input", ref.name, names, where)
        other = self._steps.get(ref.step)
        if other is None:
            raise unknown(f"Step {step.name!r}: there is no step", ref.step, list(self._steps), where)
        if other.kind == IF_ELSE:
            raise InvalidRequest(
                f"Step {step.name!r}: {ref.step!r} is an if_else, which has no outputs. Use those of "
                "a step in it.",
                target=where,
            )
        inner = other.loop.body if other.loop is not None else other.name
        component = self._components[inner]
        outlets = component.outputs if component else ()
        found = next((outlet for outlet in outlets if outlet.name == ref.name), None)
        if found is None:
            names = [outlet.name for outlet in outlets]
            raise unknown(f"Step {step.name!r}: step {ref.step!r} has no output", ref.name, names, where)
        if other.kind == PARALLEL_FOR:
            return "string" if found.type in LITERALS else "mltable"
        return found.type


def _check_control(
    pipeline: Pipeline, steps: Mapping[str, Step], components: Mapping[str, Component | None]
) -> None:
    """Bodies and branches exist, and belong to one node each."""
    owner: dict[str, str] = {}
    for step in pipeline.steps:
        inner = step.branch.then + step.branch.otherwise if step.branch else ()
        inner += (step.loop.body,) if step.loop else ()
        for name in inner:
            where = f"{JOBS}.{step.name}"
            if name not in steps:
                raise unknown(f"Step {step.name!r}: there is no step", name, list(steps), where)
            if steps[name].kind in (DO_WHILE, PARALLEL_FOR, IF_ELSE) and step.loop is not None:
                raise InvalidRequest(
                    f"Step {step.name!r}: its body {name!r} is a {steps[name].kind}; a body is a command or "
                    "a pipeline. Put the inner one into a pipeline component.",
                    target=where,
                )
            if name in owner:
                raise InvalidRequest(
                    f"Step {name!r} is a part of both {owner[name]!r} and {step.name!r}; it can be of "
                    "one only.",
                    target=where,
                )
            owner[name] = step.name
        if step.kind == DO_WHILE and step.loop is not None:
            _check_rounds(step, components[step.loop.body])


def _check_rounds(step: Step, body: Component | None) -> None:
    assert step.loop is not None
    assert body is not None
    where = f"{JOBS}.{step.name}"
    outlets, ports = [o.name for o in body.outputs], [p.name for p in body.inputs]
    for output in (
        *([step.loop.condition] if step.loop.condition else []),
        *(o for o, _ in step.loop.mapping),
    ):
        if output not in outlets:
            raise unknown(f"Step {step.name!r}: the loop's body has no output", output, outlets, where)
    for _, port in step.loop.mapping:
        if port not in ports:
            raise unknown(f"Step {step.name!r}: the loop's body has no input", port, ports, where)
    condition = body.outlet(step.loop.condition)
    if condition is not None and condition.type not in ("boolean", "string"):
        raise InvalidRequest(
            f"Step {step.name!r}: its condition {condition.name!r} is of type {condition.type}, and must be "
            "a boolean output of the body.",
            "InputTypeMismatch",
            f"{where}.condition",
        )


def items_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The items of a parallel_for: (key, inputs). A list's keys are its numbers. Raises ValueError with a
    sentence."""
    try:
        raw = json.loads(text)
    except ValueError:
        raise ValueError("items is neither JSON nor an expression") from None
    if isinstance(raw, list):
        pairs = [(str(index), item) for index, item in enumerate(cast(list[Any], raw))]
    elif isinstance(raw, dict):
        pairs = [(str(key), item) for key, item in cast(dict[str, Any], raw).items()]
    else:
        raise ValueError("items must be a list or an object of objects")
    if not pairs:
        raise ValueError("items is empty")
    for key, item in pairs:
        if not isinstance(item, dict):
            raise ValueError(f"item {key} must be an object of inputs, not {type(item).__name__}")
    return [(key, cast(dict[str, Any], item)) for key, item in pairs]


# ---------------------------------------------------------------- order


def needs(pipeline: Pipeline) -> dict[str, tuple[str, ...]]:
    """Of each step: the steps that must be known before it. A loop's node comes after what its body needs;
    who uses the body waits for the loop."""
    loop_of = {step.loop.body: step.name for step in pipeline.steps if step.loop is not None}
    gate_of = {
        name: step.name
        for step in pipeline.steps
        if step.branch is not None
        for name in step.branch.then + step.branch.otherwise
    }
    found: dict[str, tuple[str, ...]] = {}
    for step in pipeline.steps:
        texts = [given.value for given in step.inputs if given.type == LITERAL]
        if step.branch is not None:
            texts.append(step.branch.condition)
        if step.loop is not None:
            texts.append(step.loop.items)
        wanted = [ref.step for text in texts for ref in bindings.refs(text) if ref.step]
        wanted = [name if name == step.name else loop_of.get(name, name) for name in wanted]
        if step.name in gate_of:
            wanted.append(gate_of[step.name])
        if step.loop is not None:
            wanted.append(step.loop.body)
        if step.name in loop_of:
            wanted = [name for name in wanted if name != loop_of[step.name]]
        found[step.name] = tuple(dict.fromkeys(wanted))
    return found


def ordered(pipeline: Pipeline) -> tuple[str, ...]:
    """Every step after what it needs; else by the order they are written in. Raises InvalidRequest with the
    path of a cycle."""
    wanted = needs(pipeline)
    done: dict[str, None] = {}
    for step in pipeline.steps:
        path: list[str] = []
        todo: list[tuple[str, bool]] = [(step.name, False)]
        while todo:
            name, left = todo.pop()
            if left:
                path.pop()
                done[name] = None
                continue
            if name in done:
                continue
            if name in path:
                circle = [*path[path.index(name) :], name]
                raise InvalidRequest(
                    f"The steps wait for each other in a circle: {' → '.join(reversed(circle))}. "
                    "Remove one of these bindings.",
                    "PipelineCycle",
                    f"{JOBS}.{name}",
                )
            path.append(name)
            todo.append((name, True))
            todo += [(other, False) for other in reversed(wanted[name])]
    return tuple(done)
