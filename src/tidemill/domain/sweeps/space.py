"""Search spaces as Azure writes them: `{"lr": ["uniform", [0.01, 0.9]], "depth": ["choice", [[2, 4, 8]]]}`.

A dimension is sampled by one number: an index for what is countable (`count` > 0), else a quantile in [0, 1).
So every sampler works on plain numbers, and the value is the dimension's own business. Distributions:
https://learn.microsoft.com/azure/machine-learning/how-to-tune-hyperparameters#define-the-search-space
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, cast

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.units import join_words

Point = tuple[float, ...]  # one number for each dimension, in their order

WHERE = "properties.searchSpace"
_LEAST, _MOST = 1e-12, 1 - 1e-12  # quantiles of what has no ends


@dataclass(frozen=True, slots=True)
class Dimension:
    """`name` is the parameter's; of a parameter inside a choice `parameter/option/inner`."""

    name: str
    kind: str
    numbers: tuple[float, ...] = ()
    options: tuple[Any, ...] = ()  # of a choice
    base: float = math.e  # of the logarithmic ones

    @property
    def count(self) -> int:
        """How many values there are; 0: not countable."""
        if self.kind == "choice":
            return len(self.options)
        return int(self.numbers[0]) if self.kind == "randint" else 0

    def value(self, at: float) -> Any:
        """Of an index or a quantile."""
        if self.count:
            index = min(int(at), self.count - 1)
            return self.options[index] if self.kind == "choice" else index
        return _KINDS[self.kind].value(at, self)


@dataclass(frozen=True, slots=True)
class Space:
    """`names` are the parameters; `dimensions` theirs, those inside choices included."""

    names: tuple[str, ...]
    dimensions: tuple[Dimension, ...]

    def values(self, point: Point) -> dict[str, Any]:
        """The parameters of one trial: numbers, texts, or objects for choices of objects."""
        chosen = {d.name: d.value(at) for d, at in zip(self.dimensions, point, strict=True)}
        places = {d.name: int(at) for d, at in zip(self.dimensions, point, strict=True) if d.count}

        def whole(name: str) -> Any:
            value = chosen[name]
            if not isinstance(value, Mapping):
                return value
            inner = cast(Mapping[str, Any], value)
            prefix = f"{name}/{places[name]}/"
            return {k: whole(prefix + k) if prefix + k in chosen else v for k, v in inner.items()}

        return {name: whole(name) for name in self.names}


def text_of(value: Any) -> str:
    """As it stands in a command: numbers as Python writes them, objects as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "True" if value else "False"
    return repr(value) if isinstance(value, int | float) else json.dumps(value, separators=(",", ":"))


def in_words(values: Mapping[str, Any]) -> str:
    """For sentences: `lr=0.0123457, kernel=rbf`, numbers to six digits."""
    return ", ".join(
        f"{k}={v:.6g}" if isinstance(v, float) else f"{k}={text_of(v)}" for k, v in values.items()
    )


def read_space(raw: Mapping[str, Any], base: float = math.e) -> Space:
    """Raises InvalidRequest naming the parameter, what is wrong and what would be right."""
    if not raw:
        raise InvalidRequest("The search space is empty: give at least one parameter to vary.", target=WHERE)
    dimensions: list[Dimension] = []
    for name, entry in raw.items():
        dimensions += _read(name, entry, f"{WHERE}.{name}", base)
    return Space(tuple(raw), tuple(dimensions))


def _read(name: str, entry: Any, where: str, base: float) -> list[Dimension]:
    kind, arguments = _parts(name, entry, where)
    if kind == "choice":
        return _choice(name, arguments, where, base)
    rule = _KINDS[kind]
    if len(arguments) != len(rule.arguments):
        shown = ", ".join(rule.arguments)
        raise InvalidRequest(
            f"{where}: {kind} takes ({shown}), not {len(arguments)} value(s): {list(arguments)}.",
            target=where,
        )
    numbers: list[float] = []
    for word, given in zip(rule.arguments, arguments, strict=True):
        if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
            raise InvalidRequest(f"{where}: {word} of {kind} must be a number, not {given!r}.", target=where)
        numbers.append(float(given))
    problem = rule.problem(numbers)
    if problem:
        raise InvalidRequest(f"{where}: {kind} of {list(arguments)}: {problem}.", target=where)
    return [Dimension(name, kind, tuple(numbers), base=base)]


def _parts(name: str, entry: Any, where: str) -> tuple[str, Sequence[Any]]:
    """(kind, arguments), of Azure's REST form or of the object that pipelines and YAML have."""
    if isinstance(entry, Mapping):
        entry = _of_object(cast(Mapping[str, Any], entry))
    if not isinstance(entry, list | tuple) or not entry or not isinstance(entry[0], str):
        raise InvalidRequest(
            f"{where}: {entry!r} is not a distribution. Write for example "
            f'"{name}": ["uniform", [0.1, 0.9]] or ["choice", [[1, 2, 3]]].',
            target=where,
        )
    parts = cast(Sequence[Any], entry)
    kind = str(parts[0]).lower().replace("_", "")
    if kind != "choice" and kind not in _KINDS:
        known = ["choice", *_KINDS]
        guess = difflib.get_close_matches(kind, known, 1)
        hint = f"; did you mean {guess[0]!r}?" if guess else f". Use {join_words(sorted(known), 'or')}."
        raise InvalidRequest(f"{where}: {parts[0]!r} is not a distribution{hint}", target=where)
    arguments: Any = parts[1] if len(parts) > 1 else []
    if not isinstance(arguments, list | tuple):
        arguments = [arguments]
    return kind, cast(Sequence[Any], arguments)


def rest_form(entry: Any) -> Any:
    """A distribution as ARM writes it, `[kind, arguments]`, which clients read; anything else as it is."""
    if not isinstance(entry, Mapping) or not _is_distribution(cast(Mapping[str, Any], entry)):
        return cast(Any, entry)
    kind, arguments = _of_object(cast(Mapping[str, Any], entry))
    if kind.lower() != "choice" or not isinstance(arguments[0], list | tuple):
        return [kind, arguments]
    options = cast(Sequence[Any], arguments[0])
    return [kind, [[_rest_option(option) for option in options]]]


def _rest_option(option: Any) -> Any:
    if not isinstance(option, Mapping):
        return option
    return {key: rest_form(value) for key, value in cast(Mapping[str, Any], option).items()}


def _of_object(entry: Mapping[str, Any]) -> list[Any]:
    kind = str(entry.get("type", ""))
    plain = kind.lower().replace("_", "")
    if plain == "choice":
        return [kind, [entry.get("values")]]
    rule = _KINDS.get(plain)
    return [kind, [entry.get(word) for word in rule.arguments] if rule else []]


def _choice(name: str, arguments: Sequence[Any], where: str, base: float) -> list[Dimension]:
    inside = len(arguments) == 1 and isinstance(arguments[0], list | tuple)
    listed = cast(Sequence[Any], arguments[0]) if inside else arguments
    if not listed or listed[0] is None:
        raise InvalidRequest(f"{where}: choice has no values to choose from.", target=where)
    found = [Dimension(name, "choice", options=tuple(listed))]
    for index, option in enumerate(listed):
        if isinstance(option, Mapping):
            for key, inner in cast(Mapping[str, Any], option).items():
                if _is_distribution(inner):
                    place = f"{where}[{index}].{key}"
                    found += _read(f"{name}/{index}/{key}", inner, place, base)
    return found


def _is_distribution(value: Any) -> bool:
    if isinstance(value, Mapping):
        entry = cast(Mapping[str, Any], value)
        return "type" in entry and str(entry["type"]).lower().replace("_", "") in ("choice", *_KINDS)
    parts = cast(Sequence[Any], value) if isinstance(value, list | tuple) else ()
    return (
        len(parts) == 2
        and isinstance(parts[0], str)
        and parts[0].lower().replace("_", "") in ("choice", *_KINDS)
        and isinstance(parts[1], list | tuple)
    )


@dataclass(frozen=True, slots=True)
class _Kind:
    """`arguments`: their names, as in the object form; `problem` says what is wrong with them."""

    arguments: tuple[str, ...]
    problem: Callable[[Sequence[float]], str]
    value: Callable[[float, Dimension], Any]


def _between(at: float, d: Dimension) -> float:
    low, high = d.numbers[:2]
    return low + (high - low) * at


def _bell(at: float, d: Dimension) -> float:
    mu, sigma = d.numbers[:2]
    return NormalDist(mu, sigma).inv_cdf(min(max(at, _LEAST), _MOST))


def _stepped(value: float, q: float) -> float | int:
    """round(value / q) * q, as Azure defines it; whole where q is."""
    stepped = round(value / q) * q
    return int(stepped) if float(q).is_integer() else round(stepped, 12)


def _range_problem(numbers: Sequence[float]) -> str:
    if numbers[0] >= numbers[1]:
        return f"min_value {numbers[0]:g} is not below max_value {numbers[1]:g}"
    return _step_problem(numbers)


def _bell_problem(numbers: Sequence[float]) -> str:
    return f"sigma {numbers[1]:g} must be above 0" if numbers[1] <= 0 else _step_problem(numbers)


def _step_problem(numbers: Sequence[float]) -> str:
    return f"q {numbers[2]:g} must be above 0" if len(numbers) > 2 and numbers[2] <= 0 else ""


def _upper_problem(numbers: Sequence[float]) -> str:
    upper = numbers[0]
    whole = upper >= 1 and upper.is_integer()
    return "" if whole else f"upper {upper:g} must be a whole number of at least 1"


_RANGE = ("min_value", "max_value")
_BELL = ("mu", "sigma")
_KINDS: dict[str, _Kind] = {
    "uniform": _Kind(_RANGE, _range_problem, _between),
    "quniform": _Kind(
        (*_RANGE, "q"),
        _range_problem,
        lambda at, d: _stepped(_between(at, d), d.numbers[2]),
    ),
    "loguniform": _Kind(_RANGE, _range_problem, lambda at, d: d.base ** _between(at, d)),
    "qloguniform": _Kind(
        (*_RANGE, "q"),
        _range_problem,
        lambda at, d: _stepped(d.base ** _between(at, d), d.numbers[2]),
    ),
    "normal": _Kind(_BELL, _bell_problem, _bell),
    "qnormal": _Kind((*_BELL, "q"), _bell_problem, lambda at, d: _stepped(_bell(at, d), d.numbers[2])),
    "lognormal": _Kind(_BELL, _bell_problem, lambda at, d: d.base ** _bell(at, d)),
    "qlognormal": _Kind(
        (*_BELL, "q"),
        _bell_problem,
        lambda at, d: _stepped(d.base ** _bell(at, d), d.numbers[2]),
    ),
    "randint": _Kind(("upper",), _upper_problem, lambda at, d: int(at)),
}
