"""A pipeline's body, as the SDK and the CLI send it, read into `Pipeline`.

Every refusal names the step and the fix. Components are found by who calls; nothing here is looked up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from tidemill.domain.components import (
    LITERALS,
    Component,
    Port,
    literal,
    mapping,
    maybe,
    read_component,
    text_of,
    truth,
)
from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.jobspec import DATA_TYPES
from tidemill.domain.pipelines import bindings
from tidemill.domain.pipelines.bodies import Defaults, body_of
from tidemill.domain.pipelines.checking import checked, items_of, unknown
from tidemill.domain.pipelines.model import (
    COMMAND,
    CONTROL,
    DO_WHILE,
    IF_ELSE,
    LITERAL,
    PARALLEL_FOR,
    PENDING,
    SWEEP,
    Branch,
    Given,
    Loop,
    Made,
    Pipeline,
    Step,
)
from tidemill.domain.pipelines.sweep_bodies import check_trial, space_names, sweep_body, trial_id
from tidemill.domain.units import parse_whole

Find = Callable[[str, str], Component]  # (componentId, step) -> what it is; raises NotFound
JOBS = "properties.jobs"
MOST_ROUNDS = 1000  # of do_while, as on Azure
MOST_STEPS = 10_000
_MODES = {
    "mount": "ReadWriteMount",
    "ro_mount": "ReadOnlyMount",
    "rw_mount": "ReadWriteMount",
    "download": "Download",
    "upload": "Upload",
    "direct": "Direct",
}
_NOT_RUN = ("automl", "spark", "data_transfer", "import")


def component_ids(properties: Mapping[str, Any]) -> dict[str, str]:
    """Of every step that names one: step -> componentId."""
    nodes = mapping(properties, "jobs", "properties")
    found = {name: _id_of(maybe(node)) for name, node in nodes.items()}
    return {name: id for name, id in found.items() if id}


def _id_of(node: Mapping[str, Any]) -> str:
    return text_of(node.get("componentId")) or trial_id(node)


def read_pipeline(properties: Mapping[str, Any], find: Find, template: Component | None = None) -> Pipeline:
    """`template`: the pipeline component that the job is made from, if it is. Raises InvalidRequest (a cycle
    with its path, an input that is unknown, missing or of another type), NotOffered, and what `find` does."""
    source = template.spec if template is not None else properties
    nodes = mapping(source, "jobs", "properties")
    if not nodes:
        raise InvalidRequest("The pipeline has no jobs: give at least one step.", target=JOBS)
    if len(nodes) > MOST_STEPS:
        raise InvalidRequest(
            f"The pipeline has {len(nodes)} steps; at most {MOST_STEPS} are taken.", target=JOBS
        )
    settings = mapping(properties, "settings", "properties")
    for name in ("on_init", "on_finalize"):
        if _setting(settings, name):
            raise NotOffered(
                f"settings.{name} names a step that runs before or after all others: "
                "Tidemill does not offer it. Bind the step's output to the others instead.",
                f"properties.settings.{name}",
            )
    defaults = Defaults(settings, text_of(properties.get("computeId")))
    known: dict[str, Component | None] = {}
    elsewhere = _given_elsewhere(nodes)
    steps: list[Step] = []
    for name, raw in nodes.items():
        if not isinstance(raw, Mapping):
            raise InvalidRequest(f"Step {name!r} must be an object.", target=f"{JOBS}.{name}")
        node = cast(Mapping[str, Any], raw)
        kind = str(node.get("type") or COMMAND).lower()
        with_component = kind not in CONTROL
        known[name] = _component(name, node, kind, find) if with_component else None
        steps.append(_step(name, node, kind, known[name], defaults, elsewhere.get(name, ())))
    inputs = _pipeline_inputs(properties, template)
    pipeline = Pipeline(
        steps=tuple(steps),
        inputs=inputs,
        outputs=_pipeline_outputs(properties, template, steps),
        continue_on_step_failure=truth(_setting(settings, "continue_on_step_failure"), True),
        continue_on_failed_optional_input=truth(
            _setting(settings, "continue_on_failed_optional_input"), True
        ),
        force_rerun=truth(_setting(settings, "force_rerun"), False),
    )
    return checked(pipeline, known, template)


def _setting(settings: Mapping[str, Any], name: str) -> Any:
    head, *rest = name.split("_")
    return settings.get(name, settings.get(head + "".join(word.title() for word in rest)))


def _component(name: str, node: Mapping[str, Any], kind: str, find: Find) -> Component:
    if kind in _NOT_RUN:
        raise NotOffered(
            f"Step {name!r} is of type {kind}, which Tidemill does not run yet: steps of type command, "
            "sweep, parallel and pipeline, if_else, do_while and parallel_for do.",
            f"{JOBS}.{name}.type",
        )
    id = _id_of(node)
    if id:
        return find(id, name)
    spec = node.get("component")
    if isinstance(spec, Mapping):
        return read_component(spec, name)
    if kind == SWEEP:
        trial = maybe(node.get("trial"))
        spec = maybe(maybe(trial.get("properties")).get("componentSpec")) or trial
        return read_component(spec if "inputs" in spec else _trial(spec, node), name)
    return read_component(_inline(node), name)


def _trial(trial: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """A trial that is written out in its step has the step's inputs and outputs, and the search space's."""
    spec = _inline({**trial, "inputs": node.get("inputs"), "outputs": node.get("outputs")})
    spec["type"] = COMMAND
    spec["command"] = str(trial.get("command") or "").replace("search_space.", "inputs.")
    return {**spec, "inputs": {**spec["inputs"], **{name: {"type": "any"} for name in space_names(node)}}}


def _inline(node: Mapping[str, Any]) -> dict[str, Any]:
    """A step that is written out is a component with the inputs and outputs that it is given."""
    inputs = {
        name: {"type": _port_type(raw), "optional": raw is None} for name, raw in _entries(node, "inputs")
    }
    outputs = {name: {"type": _outlet_type(raw)} for name, raw in _entries(node, "outputs")}
    code, environment = node.get("codeId") or node.get("code"), node.get("environmentId")
    return {
        **node,
        "code": code,
        "environment": environment or node.get("environment"),
        "inputs": inputs,
        "outputs": outputs,
    }


def _entries(node: Mapping[str, Any], field: str) -> list[tuple[str, Any]]:
    return list(mapping(node, field, JOBS).items())


def _port_type(raw: Any) -> str:
    if isinstance(raw, Mapping):
        kind = _kind_of(cast(Mapping[str, Any], raw), "input")
        return "any" if kind == LITERAL else kind
    return "any"


def _outlet_type(raw: Any) -> str:
    kind = _kind_of(cast(Mapping[str, Any], raw), "output") if isinstance(raw, Mapping) else ""
    return "uri_folder" if kind in ("", LITERAL) else kind


def _kind_of(value: Mapping[str, Any], what: str) -> str:
    return str(
        value.get(f"job_{what}_type") or value.get(f"job{what.title()}Type") or value.get("type") or ""
    ).lower()


# ---------------------------------------------------------------- steps


def _given_elsewhere(nodes: Mapping[str, Any]) -> dict[str, tuple[str, ...] | None]:
    """Of steps whose inputs something else sets, a parallel_for's items or a search space: which; None for
    any."""
    found: dict[str, tuple[str, ...] | None] = {}
    for name, raw in nodes.items():
        node = maybe(raw)
        if str(node.get("type")).lower() == SWEEP:
            found[name] = space_names(node)
        elif str(node.get("type")).lower() == PARALLEL_FOR:
            try:
                body = bindings.step_of(text_of(node.get("body")))
            except bindings.Unreadable:
                continue  # said of the loop itself
            found[body] = _names_in(node.get("items"))
    return found


def _names_in(items: Any) -> tuple[str, ...] | None:
    """The inputs that the items of a parallel_for give, None where a step makes them."""
    try:
        return tuple(items_of(items if isinstance(items, str) else json.dumps(items))[0][1])
    except ValueError:
        return None


def _step(
    name: str,
    node: Mapping[str, Any],
    kind: str,
    component: Component | None,
    defaults: Defaults,
    elsewhere: tuple[str, ...] | None,
) -> Step:
    where = f"{JOBS}.{name}"
    try:
        if kind == IF_ELSE:
            return Step(name, kind, branch=_branch(node, where))
        if kind in (DO_WHILE, PARALLEL_FOR):
            return Step(name, kind, loop=_loop(kind, node, name, where), outputs=_outputs(node, None, where))
    except bindings.Unreadable as error:
        raise InvalidRequest(f"Step {name!r}: {error}.", "InvalidExpression", where) from error
    assert component is not None
    outputs = _outputs(node, component, where)
    if kind == SWEEP:
        check_trial(f"Step {name!r}", component, node, where)
    return Step(
        name,
        SWEEP if kind == SWEEP else component.kind,
        body=json.dumps(_body(name, kind, node, component, defaults)),
        inputs=_inputs(name, node, component, where, elsewhere),
        outputs=tuple(
            made if made.uri or made.parent or not defaults.datastore else _placed(made, defaults)
            for made in outputs
        ),
        component=_called(node, component),
        deterministic=component.deterministic and truth(node.get("is_deterministic"), True),
    )


def _body(
    name: str, kind: str, node: Mapping[str, Any], component: Component, defaults: Defaults
) -> dict[str, Any]:
    if kind == SWEEP:
        return sweep_body(name, component, node, defaults)
    body = body_of(name, component, node, defaults)
    if component.kind == "pipeline":
        body["componentId"] = str(node.get("componentId") or "")
    return body


def _placed(made: Made, defaults: Defaults) -> Made:
    return replace(made, uri=defaults.place(made.name))


def _called(node: Mapping[str, Any], component: Component) -> str:
    id = _id_of(node)
    return f"{component.name}:{component.version}" if id and "azureml_anonymous" not in id else ""


def _inputs(
    step: str,
    node: Mapping[str, Any],
    component: Component,
    where: str,
    elsewhere: tuple[str, ...] | None,
) -> tuple[Given, ...]:
    """What is given, and the component's defaults for the rest, but for what is set elsewhere. Raises
    InvalidRequest."""
    given = dict(_entries(node, "inputs"))
    names = [port.name for port in component.inputs]
    for name in given:
        if name not in names:
            raise unknown(f"Step {step!r}: its component has no input", name, names, f"{where}.inputs.{name}")
    found: list[Given] = []
    for port in component.inputs:
        value = read_given(port.name, given.get(port.name), f"{where}.inputs.{port.name}", port)
        if value is not None:
            found.append(value)
        elif port.name in (elsewhere or ()):
            continue
        elif port.default is not None:
            found.append(Given(port.name, port.default, LITERAL, optional=port.optional))
        elif not port.optional and elsewhere is not None:
            raise InvalidRequest(
                f"Step {step!r}: input {port.name!r} ({port.type}) of its component has no value. "
                f"Give one in jobs.{step}.inputs.{port.name}.",
                "InputNotBound",
                f"{where}.inputs.{port.name}",
            )
    return tuple(found)


def read_given(name: str, raw: Any, where: str, port: Port | None = None) -> Given | None:
    """An input as it is given; None for no value. Raises InvalidRequest."""
    optional = port is not None and port.optional
    if raw is None or raw == "":
        return None
    if not isinstance(raw, Mapping):
        return Given(name, text_of(raw), LITERAL, optional=optional)
    value = cast(Mapping[str, Any], raw)
    kind, mode = _kind_of(value, "input") or LITERAL, _mode(value.get("mode") or (port.mode if port else ""))
    uri = text_of(value.get("uri") or value.get("path"))
    if kind in (LITERAL, *LITERALS) or "${{" in uri or not uri:
        text = text_of(value.get("value")) if value.get("value") is not None else uri
        return Given(name, text, LITERAL, mode, optional) if text else None
    if kind not in DATA_TYPES:
        raise InvalidRequest(f"Type {kind!r} is not known. Use one of {', '.join(DATA_TYPES)}.", target=where)
    return Given(name, uri, kind, mode, optional)


def _outputs(node: Mapping[str, Any], component: Component | None, where: str) -> tuple[Made, ...]:
    given = dict(_entries(node, "outputs"))
    outlets = {outlet.name: outlet for outlet in component.outputs} if component is not None else {}
    for name in given:
        if component is not None and name not in outlets:
            step = where.rpartition(".")[2]
            raise unknown(
                f"Step {step!r}: its component has no output", name, list(outlets), f"{where}.outputs"
            )
    names = list(outlets) if component is not None else list(given)
    return tuple(
        _made(
            name,
            given.get(name),
            outlets[name].type if name in outlets else "",
            outlets[name].mode if name in outlets else "",
        )
        for name in names
    )


def _made(name: str, raw: Any, kind: str, mode: str) -> Made:
    if isinstance(raw, str):
        return Made(name, kind or "uri_folder", _mode(mode), parent=bindings.output_of(raw))
    value = maybe(raw)
    given = _kind_of(value, "output")
    return Made(
        name,
        kind if given in ("", LITERAL) else given,
        _mode(value.get("mode") or mode),
        text_of(value.get("uri") or value.get("path")),
        text_of(value.get("asset_name") or value.get("assetName") or value.get("name")),
        text_of(value.get("asset_version") or value.get("assetVersion") or value.get("version")),
        bindings.output_of(text_of(value.get("value"))),
    )


def _mode(raw: Any) -> str:
    word = text_of(raw)
    return _MODES.get(word.lower(), word)


def _branch(node: Mapping[str, Any], where: str) -> Branch:
    condition = node.get("condition")
    if condition is None or condition == "":
        raise InvalidRequest(
            f"Step {where.rpartition('.')[2]!r} (if_else) has no condition: give an output of a step, "
            "${{parent.jobs.STEP.outputs.NAME}}.",
            target=f"{where}.condition",
        )
    blocks = [_block(node.get(field)) for field in ("true_block", "false_block")]
    if not any(blocks):
        raise InvalidRequest("An if_else needs a true_block or a false_block.", target=where)
    return Branch(text_of(condition), *blocks)


def _block(raw: Any) -> tuple[str, ...]:
    words = cast(list[Any], raw) if isinstance(raw, list) else [raw]
    return tuple(bindings.step_of(text_of(word)) for word in words if word)


def _loop(kind: str, node: Mapping[str, Any], name: str, where: str) -> Loop:
    body = bindings.step_of(text_of(node.get("body")))
    if kind == PARALLEL_FOR:
        items = node.get("items")
        text = items if isinstance(items, str) else json.dumps(items)
        width = parse_whole(text_of(node.get("max_concurrency"))) or 0
        return Loop(body, items=text, concurrency=width)
    limits = mapping(node, "limits", where)
    most = parse_whole(text_of(limits.get("max_iteration_count", MOST_ROUNDS)))
    if most is None or not 1 <= most <= MOST_ROUNDS:
        raise InvalidRequest(
            f"Step {name!r}: limits.max_iteration_count is "
            f"{limits.get('max_iteration_count')!r}; it must be from 1 to {MOST_ROUNDS}.",
            target=f"{where}.limits.max_iteration_count",
        )
    pairs: list[tuple[str, str]] = []
    for output, ports in mapping(node, "mapping", where).items():
        for port in cast(list[Any], ports) if isinstance(ports, list) else [ports]:
            pairs.append((bindings.port_of(output), bindings.port_of(text_of(port))))
    condition = text_of(node.get("condition"))
    return Loop(body, bindings.port_of(condition) if condition else "", tuple(pairs), most)


# ---------------------------------------------------------------- the pipeline's own


def _pipeline_inputs(properties: Mapping[str, Any], template: Component | None) -> tuple[Given, ...]:
    given = mapping(properties, "inputs", "properties")
    where = "properties.inputs"
    if template is None:
        read = (read_given(name, raw, f"{where}.{name}") for name, raw in given.items())
        return tuple(value for value in read if value is not None)
    names = [port.name for port in template.inputs]
    for name in given:
        if name not in names:
            raise unknown(
                f"Pipeline component {template.name!r} has no input", name, names, f"{where}.{name}"
            )
    found: list[Given] = []
    for port in template.inputs:
        value = read_given(port.name, given.get(port.name), f"{where}.{port.name}", port)
        if value is not None:
            if value.type == LITERAL and port.type in LITERALS and value.value != PENDING:
                literal(port, value.value, f"Input {port.name!r} of pipeline component {template.name!r}")
            found.append(value)
        elif port.default is not None:
            found.append(Given(port.name, port.default))
        elif not port.optional:
            raise InvalidRequest(
                f"Input {port.name!r} ({port.type}) of pipeline component {template.name!r} has no value.",
                "InputNotBound",
                f"{where}.{port.name}",
            )
    return tuple(found)


def _pipeline_outputs(
    properties: Mapping[str, Any], template: Component | None, steps: list[Step]
) -> tuple[Made, ...]:
    """The pipeline's outputs, each with the step's output that it is. Raises InvalidRequest."""
    given = mapping(properties, "outputs", "properties")
    declared = maybe(template.spec.get("outputs") if template is not None else None)
    names = [
        *cast(Mapping[str, Any], declared or {}),
        *(name for name in given if name not in (declared or {})),
    ]
    sources = {
        made.parent: (f"{step.name}.{made.name}", made)
        for step in steps
        for made in step.outputs
        if made.parent
    }
    for name, (source, _) in sources.items():
        if name not in names:
            raise unknown(
                "Step {!r}: output {!r} is bound to an output that the pipeline does not have,".format(
                    *source.split(".", 1)
                ),
                name,
                names,
                "properties.outputs",
            )
    found: list[Made] = []
    for name in names:
        if name not in sources:
            if name == "default":
                continue  # where the SDK keeps the run's artifacts
            raise InvalidRequest(
                f"Output {name!r} of the pipeline comes from no step: bind a step's output to "
                f"${{{{parent.outputs.{name}}}}}, or remove it.",
                "OutputNotBound",
                f"properties.outputs.{name}",
            )
        source, made = sources[name]
        own = _made(name, given.get(name), made.type, made.mode)
        kind = made.type if made.type in LITERALS else own.type or made.type
        found.append(Made(name, kind, own.mode, own.uri, own.asset_name, own.asset_version, source=source))
    return tuple(found)
