"""The picture of a sweep's trials."""

from __future__ import annotations

from typing import Any

from tidemill.portal.sweep_picture import HEIGHT, MARGIN, draw


def sweep(*scores: float | None, goal: str = "maximize") -> dict[str, Any]:
    trials = [
        {"number": n, "name": f"t{n}", "state": "Completed", "values": {"x": "1"}, "score": s, "stopped": ""}
        for n, s in enumerate(scores, 1)
    ]
    return {"goal": goal, "metric": "acc", "best": "t2", "trials": trials}


def test_nothing_is_drawn_before_a_number_is_there() -> None:
    assert draw(sweep()) is None
    assert draw(sweep(None, float("nan"))) is None


def test_the_highest_is_at_the_top_and_the_line_is_the_best_so_far() -> None:
    found = draw(sweep(0.2, 0.9, None, 0.5))
    assert found is not None
    assert [(dot.name, dot.best) for dot in found.dots] == [("t1", False), ("t2", True), ("t4", False)]
    assert [dot.y for dot in found.dots] == [HEIGHT - MARGIN, MARGIN, 123.4]
    assert (found.low, found.high) == (0.2, 0.9)
    assert found.front == f"M8.0,204.0H{found.dots[1].x}V16.0H992.0"


def test_the_lowest_is_the_best_where_that_is_the_goal() -> None:
    found = draw(sweep(0.2, 0.9, 0.1, goal="minimize"))
    assert found is not None
    assert found.front.count("V") == 1
    assert f"H{found.dots[2].x}V204.0" in found.front


def test_one_trial_or_equal_ones_are_in_the_middle() -> None:
    found = draw(sweep(0.5))
    assert found is not None
    assert found.dots[0].y == 110.0
