"""The picture of a job's time line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidemill.portal.phases import BEGINS, NARROWEST, WIDTH, draw


def entry(code: str, elapsed: float) -> dict[str, object]:
    return {"code": code, "elapsed_s": elapsed}


def test_phases_follow_the_events_and_share_the_width() -> None:
    picture = draw(
        [
            entry("Submitted", 0),
            entry("Preparing", 0),
            entry("Note", 1),
            entry("EnvironmentReady", 2),
            entry("Waiting.NodesOpening", 2),
            entry("Assigned", 4),
            entry("Started", 5),
            entry("Completed", 10),
        ],
        10,
        final=True,
    )
    assert [(row.phase, row.seconds) for row in picture.rows] == [
        ("environment", 2),
        ("nodes", 2),
        ("start", 1),
        ("run", 5),
    ]
    run = picture.rows[-1].bars[0]
    assert (run.x, run.width, run.open) == (500, 500, False)


def test_a_job_that_goes_on_has_one_open_bar_up_to_now() -> None:
    picture = draw([entry("Submitted", 0), entry("Assigned", 1), entry("Started", 2)], 8, final=False)
    assert [bar.open for row in picture.rows for bar in row.bars] == [False, False, True]
    assert picture.rows[-1].seconds == 6


def test_a_second_attempt_is_a_second_bar_in_the_same_row() -> None:
    codes = ["Submitted", "Started", "Waiting.NodesBusy", "Started", "Failed"]
    picture = draw([entry(code, at) for at, code in enumerate(codes)], 4, final=True)
    rows = {row.phase: row for row in picture.rows}
    assert [(bar.start, bar.end) for bar in rows["run"].bars] == [(1, 2), (3, 4)]
    assert rows["queue"].seconds == 2


def test_nothing_has_happened_yet() -> None:
    assert draw([], 0, final=False).rows == ()
    assert draw([entry("Submitted", 0)], 0, final=False).rows[0].bars[0].width == NARROWEST


_codes = st.sampled_from([*BEGINS, "Note", "Waiting.NodesBusy", "Waiting.NodesOpening", "AttemptLost"])


@given(st.lists(st.tuples(_codes, st.floats(0, 1e6))), st.floats(0, 1e6), st.booleans())
def test_bars_stay_inside_the_picture(steps: list[tuple[str, float]], elapsed: float, final: bool) -> None:
    timeline = [entry(code, at) for code, at in sorted(steps, key=lambda step: step[1])]
    picture = draw(timeline, elapsed, final)
    for row in picture.rows:
        for bar in row.bars:
            assert bar.x >= 0
            assert bar.width >= NARROWEST
            assert bar.x + bar.width <= WIDTH + 0.02  # two roundings
            assert 0 <= bar.start <= bar.end <= picture.seconds
