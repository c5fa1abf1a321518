"""Search spaces and samplers."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.sweeps import sampling
from tidemill.domain.sweeps.sampling import GRID, RANDOM, SOBOL, grid_size, sampled
from tidemill.domain.sweeps.sobol import MOST, sobol
from tidemill.domain.sweeps.space import read_space, text_of

EVERY = {
    "a": ["choice", [[1, "two", 3.5]]],
    "b": ["uniform", [0.1, 0.9]],
    "c": ["quniform", [1, 100, 5]],
    "d": ["loguniform", [-6, -1]],
    "e": ["qloguniform", [0, 4, 2]],
    "f": ["normal", [10, 3]],
    "g": ["qnormal", [10, 3, 1]],
    "h": ["lognormal", [0, 1]],
    "i": ["qlognormal", [0, 1, 1]],
    "j": ["randint", [8]],
}


def points(algorithm: str, space: object, count: int, seed: int = 7) -> list[dict[str, object]]:
    found = [sampled(algorithm, space, n, seed) for n in range(count)]  # type: ignore[arg-type]
    return [space.values(point) for point in found if point is not None]  # type: ignore[attr-defined]


@pytest.mark.parametrize("algorithm", [RANDOM, SOBOL])
def test_every_distribution_gives_what_it_says(algorithm: str) -> None:
    found = points(algorithm, read_space(EVERY), 512)
    of = {name: [values[name] for values in found] for name in EVERY}
    assert set(of["a"]) == {1, "two", 3.5}
    assert all(0.1 <= b <= 0.9 for b in of["b"])
    assert statistics.fmean(of["b"]) == pytest.approx(0.5, abs=0.05)  # type: ignore[type-var]
    assert all(isinstance(c, int) and c % 5 == 0 and 0 <= c <= 100 for c in of["c"])
    assert all(math.exp(-6) <= d <= math.exp(-1) for d in of["d"])
    assert statistics.fmean(math.log(d) for d in of["d"]) == pytest.approx(-3.5, abs=0.3)
    assert all(isinstance(e, int) and e % 2 == 0 for e in of["e"])
    assert statistics.fmean(of["f"]) == pytest.approx(10, abs=0.5)  # type: ignore[type-var]
    assert statistics.stdev(of["f"]) == pytest.approx(3, abs=0.5)  # type: ignore[type-var]
    assert all(isinstance(g, int) for g in of["g"])
    assert all(h > 0 for h in of["h"])
    assert statistics.median(math.log(h) for h in of["h"]) == pytest.approx(0, abs=0.2)
    assert set(of["j"]) == set(range(8))


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    space = read_space(EVERY)
    for algorithm in (RANDOM, SOBOL):
        assert points(algorithm, space, 5) == points(algorithm, space, 5)
        assert points(algorithm, space, 5) != points(algorithm, space, 5, seed=8)


def test_the_base_of_logarithms_can_be_given() -> None:
    space = read_space({"lr": ["loguniform", [-3, -1]]}, base=10)
    assert all(0.001 <= values["lr"] <= 0.1 for values in points(RANDOM, space, 50))  # type: ignore[operator]


def test_a_grid_has_every_combination_once() -> None:
    space = read_space({"a": ["choice", [[1, 2]]], "b": ["randint", [3]]})
    assert grid_size(space) == 6
    found = points(GRID, space, 100)
    assert [(v["a"], v["b"]) for v in found] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]


def test_choices_of_objects_have_parameters_of_their_own() -> None:
    space = read_space(
        {
            "model": [
                "choice",
                [
                    [
                        {"kind": "tree", "depth": ["choice", [[2, 4]]]},
                        {"kind": "line", "c": ["uniform", [0, 1]]},
                    ]
                ],
            ]
        }
    )
    found = [values["model"] for values in points(RANDOM, space, 60)]
    assert {v["depth"] for v in found if v["kind"] == "tree"} == {2, 4}  # type: ignore[index]
    assert all(0 <= v["c"] <= 1 for v in found if v["kind"] == "line")  # type: ignore[index]
    trees = read_space({"m": ["choice", [[{"d": ["choice", [[2, 4]]]}, {"d": 8}]]]})
    assert grid_size(trees) == 3
    assert [v["m"]["d"] for v in points(GRID, trees, 9)] == [2, 4, 8]  # type: ignore[index]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (["unifrom", [0, 1]], "did you mean 'uniform'"),
        (["uniform", [1]], r"takes \(min_value, max_value\), not 1"),
        (["uniform", [2, 1]], "min_value 2 is not below max_value 1"),
        (["quniform", [0, 1, 0]], "q 0 must be above 0"),
        (["normal", [0, -1]], "sigma -1 must be above 0"),
        (["randint", [0]], "at least 1"),
        (["uniform", ["a", 1]], "min_value of uniform must be a number, not 'a'"),
        (["choice", [[]]], "no values to choose from"),
        (0.5, "is not a distribution"),
    ],
)
def test_what_is_wrong_is_said_with_the_parameter(entry: object, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as raised:
        read_space({"lr": entry})
    assert "searchSpace.lr" in str(raised.value)


def test_a_grid_needs_what_can_be_counted_and_sobol_few_dimensions() -> None:
    with pytest.raises(InvalidRequest, match="'lr' \\(uniform\\) has endlessly many"):
        sampling.check(GRID, read_space({"lr": ["uniform", [0, 1]]}))
    many = read_space({f"p{n}": ["uniform", [0, 1]] for n in range(MOST + 1)})
    with pytest.raises(InvalidRequest, match="covers up to 21"):
        sampling.check(SOBOL, many)


@given(st.integers(1, 7), st.integers(1, MOST))
def test_sobol_puts_one_point_into_each_part(bits: int, dimensions: int) -> None:
    """The first 2^n points of each coordinate fall into different 2^-n parts."""
    count = 1 << bits
    found = [sobol(n, dimensions) for n in range(count)]
    for at in range(dimensions):
        assert sorted(int(point[at] * count) for point in found) == list(range(count))


def test_sobol_is_the_known_sequence() -> None:
    """By hand from Joe and Kuo's table; scipy.stats.qmc.Sobol(scramble=False) has the same 21 dimensions."""
    assert [sobol(n, 3) for n in range(5)] == [
        (0.0, 0.0, 0.0),
        (0.5, 0.5, 0.5),
        (0.75, 0.25, 0.25),
        (0.25, 0.75, 0.75),
        (0.375, 0.375, 0.625),
    ]


def test_values_as_they_stand_in_a_command() -> None:
    assert [text_of(v) for v in (1, 0.5, "x y", True, {"a": 1})] == ["1", "0.5", "x y", "True", '{"a":1}']
