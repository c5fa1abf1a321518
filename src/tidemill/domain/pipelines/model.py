"""A pipeline as it was accepted, in frozen values: what its steps need, and what they are made of.

Inputs keep their expressions (`${{parent.inputs.x}}`, `${{parent.jobs.train.outputs.model}}`); `bindings`
finds them. The names are those of Azure's YAML.
"""

from __future__ import annotations

from dataclasses import dataclass, field

COMMAND, PIPELINE, SWEEP, PARALLEL = "command", "pipeline", "sweep", "parallel"
IF_ELSE, DO_WHILE, PARALLEL_FOR = "if_else", "do_while", "parallel_for"
CONTROL = (IF_ELSE, DO_WHILE, PARALLEL_FOR)
LITERAL = "literal"
PENDING = "tidemill:pending"  # stands for what a step will make, while a pipeline is checked


@dataclass(frozen=True, slots=True)
class Given:
    """A value for an input: a literal (`type` LITERAL, `value` its text, with expressions) or data
    (`value` its address)."""

    name: str
    value: str
    type: str = LITERAL
    mode: str = ""
    optional: bool = False  # the component can do without
    made: bool = False  # by another step


@dataclass(frozen=True, slots=True)
class Made:
    """An output of a step, or of the pipeline. `parent`: the pipeline's output that it is. Of the pipeline's
    own, `source` is "STEP.OUTPUT"."""

    name: str
    type: str
    mode: str = ""
    uri: str = ""
    asset_name: str = ""
    asset_version: str = ""
    parent: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Loop:
    """What do_while and parallel_for add to their body. `mapping`: (output, input) of the next
    round. `items`: JSON, or an expression."""

    body: str
    condition: str = ""  # an output of the body; "": until `most`
    mapping: tuple[tuple[str, str], ...] = ()
    most: int = 1
    items: str = ""
    concurrency: int = 0  # 0: all at once


@dataclass(frozen=True, slots=True)
class Branch:
    condition: str
    then: tuple[str, ...] = ()
    otherwise: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """`body`: JSON of the child's ARM properties, all but inputs, outputs and what the pipeline adds."""

    name: str
    kind: str
    body: str = "{}"
    inputs: tuple[Given, ...] = ()
    outputs: tuple[Made, ...] = ()
    component: str = ""  # NAME:VERSION, "" for one that is part of the pipeline
    deterministic: bool = True
    loop: Loop | None = None
    branch: Branch | None = None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """`inputs`: with all defaults filled in. `order`: every step after what it needs."""

    steps: tuple[Step, ...]
    inputs: tuple[Given, ...] = ()
    outputs: tuple[Made, ...] = ()
    continue_on_step_failure: bool = True
    continue_on_failed_optional_input: bool = True
    force_rerun: bool = False
    order: tuple[str, ...] = field(default=())

    def step(self, name: str) -> Step | None:
        return next((step for step in self.steps if step.name == name), None)
