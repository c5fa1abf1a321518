"""Which batch is whose: each ends once, whoever fails, hangs or is gone; thresholds; restarts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidemill.serving.batch.board import Board
from tidemill.serving.batch.spec import Spec

STEPS = st.lists(st.tuples(st.sampled_from("tfxl"), st.integers(0, 3)), max_size=200)


def spec(**settings: object) -> Spec:
    return Spec("s.py", "in", **settings)  # type: ignore[arg-type]


@given(st.integers(1, 12), st.integers(0, 2), STEPS)
def test_each_batch_ends_once_and_tries_are_counted(total, retries, steps):
    board = Board.of(total, spec(retries=retries))
    ended: dict[int, str] = {}
    tries = dict.fromkeys(range(total), 0)
    for what, worker in steps:
        name = str(worker)
        held = next((index for index, holder in board.taken.items() if holder == name), None)
        if what == "t" and held is None:
            index = board.take(name)
            assert index is None or index not in ended
        elif what == "f" and held is not None:
            assert board.finish(held, 2, 2)
            ended[held] = "done"
        elif what == "x" and held is not None:
            tries[held] += 1
            last = board.fail(held, 2, "E", ["a"])
            assert last == (tries[held] > retries)
            if last:
                ended[held] = "failed"
        elif what == "l":
            assert board.lose(name) == ([] if held is None else [held])
    everywhere = [*board.pending, *board.taken, *board.done, *board.failed]
    assert sorted(everywhere) == list(range(total))
    assert ended == {**dict.fromkeys(board.done, "done"), **dict.fromkeys(board.failed, "failed")}
    assert (board.items, board.item_errors) == (2 * len(ended), 2 * len(board.failed))


def test_what_a_worker_had_is_next_and_costs_no_try():
    board = Board.of(3, spec(retries=0))
    assert (board.take("a"), board.take("b")) == (0, 1)
    assert board.lose("a") == [0]
    assert board.take("c") == 0
    assert board.tries == {}


def test_a_result_that_comes_twice_counts_once():
    board = Board.of(1, spec())
    board.take("a")
    assert board.finish(0, 3, 3)
    assert not board.finish(0, 3, 3)
    assert not board.fail(0, 3, "late", [])
    assert (board.items, board.ended) == (3, True)


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_a_restart_begins_with_what_is_left(done, failed):
    failed -= done
    records = [{"i": i, "items": 2, "returned": 2} for i in done]
    records += [{"i": i, "items": 2, "returned": 0, "error": "E", "names": ["x"]} for i in failed]
    board = Board.of(10, spec())
    board.restore(records)
    assert list(board.pending) == [i for i in range(10) if i not in done | failed]
    assert (board.done, board.failed) == (done, failed)
    assert board.item_errors == 2 * len(failed)


def ended(failed: int, short: int = 0, **thresholds: object) -> str:
    board = Board.of(10, spec(retries=0, **thresholds))
    for number in range(10):
        board.take("a")
        if number < failed:
            board.fail(number, 4, "E", [])
        else:
            board.finish(number, 4, 3 if number < failed + short else 4)
    return board.over()


def test_thresholds():
    assert ended(10) == ""
    assert ended(2, batch_errors=2) == ""
    assert ended(3, batch_errors=2).startswith("3 of 10 mini-batches failed")
    assert ended(1, 2, item_errors=6) == ""
    assert ended(1, 3, item_errors=6).startswith("7 items have no result, and error_threshold allows 6")
    assert ended(3, failed_percent=30.0) == ""
    assert "allowed_failed_percent allows 20 %" in ended(3, failed_percent=20.0)


def test_more_results_than_items_are_no_errors():
    board = Board.of(1, spec())
    board.take("a")
    board.finish(0, 1, 5)
    assert board.item_errors == 0
