"""Which point of the search space a trial tries. Random, Sobol and grid are decided here; bayesian sampling
asks a port."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.sweeps.sobol import MOST, sobol
from tidemill.domain.sweeps.space import Dimension, Point, Space, text_of

GRID, RANDOM, SOBOL, BAYESIAN = "grid", "random", "sobol", "bayesian"
WHERE = "properties.samplingAlgorithm"


@dataclass(frozen=True, slots=True)
class Seen:
    """A trial as a sampler sees it: `score` None while it runs, or when it has none."""

    point: Point
    score: float | None
    live: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """What a model-based sampler is asked: `counts` of the dimensions (0: a quantile), the trials so far."""

    counts: tuple[int, ...]
    seen: tuple[Seen, ...]
    maximize: bool
    seed: int


def check(algorithm: str, space: Space) -> None:
    """Raises InvalidRequest where the algorithm cannot sample the space."""
    if algorithm == GRID:
        endless = next((d for d in space.dimensions if not d.count), None)
        if endless is not None:
            raise InvalidRequest(
                f"Grid sampling tries every combination, and {endless.name!r} ({endless.kind}) has endlessly "
                "many values. Write it as a choice of some, or sample at random.",
                target=f"properties.searchSpace.{endless.name}",
            )
    if algorithm == SOBOL and len(space.dimensions) > MOST:
        raise InvalidRequest(
            f"The rule sobol covers up to {MOST} parameters; this space has {len(space.dimensions)}. "
            "Use the rule random.",
            target=WHERE,
        )


def grid_size(space: Space) -> int:
    """How many trials a grid has. Of nested choices only combinations that differ count."""
    if not any("/" in d.name for d in space.dimensions):
        size = 1
        for dimension in space.dimensions:
            size *= dimension.count
        return size
    return sum(1 for _ in _grid(space))


def grid_point(space: Space, number: int) -> Point | None:
    """The combination `number`, the last parameter varying fastest; None past the end."""
    if any("/" in d.name for d in space.dimensions):
        return next((point for at, point in enumerate(_grid(space)) if at == number), None)
    places: list[int] = []
    for dimension in reversed(space.dimensions):
        number, place = divmod(number, dimension.count)
        places.append(place)
    return None if number else tuple(float(place) for place in reversed(places))


def _grid(space: Space) -> Iterator[Point]:
    told: set[str] = set()
    for places in product(*(range(d.count) for d in space.dimensions)):
        point = tuple(float(place) for place in places)
        values = text_of(space.values(point))
        if values not in told:
            told.add(values)
            yield point


def sampled(algorithm: str, space: Space, number: int, seed: int) -> Point | None:
    """The point of trial `number` (from 0), the same whenever it is asked. None: the space is used up."""
    if algorithm == GRID:
        return grid_point(space, number)
    source = random.Random(f"{seed}/{number if algorithm == RANDOM else ''}")
    if algorithm == SOBOL:  # moved round by the seed, so that other seeds give other points
        shifts = [source.random() for _ in space.dimensions]
        quantiles = [(at + by) % 1 for at, by in zip(sobol(number, len(shifts)), shifts, strict=True)]
        return tuple(_placed(d, at) for d, at in zip(space.dimensions, quantiles, strict=True))
    return tuple(_placed(d, source.random()) for d in space.dimensions)


def ask(space: Space, seen: tuple[Seen, ...], maximize: bool, seed: int) -> Ask:
    return Ask(tuple(d.count for d in space.dimensions), seen, maximize, seed)


def _placed(dimension: Dimension, quantile: float) -> float:
    return float(int(quantile * dimension.count)) if dimension.count else quantile
