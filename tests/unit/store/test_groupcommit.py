"""The group writer with a session of its own: retries, failing commits, fairness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from tidemill.domain.model import Touched
from tidemill.store.groupcommit import MAX_BATCH, MAX_TRIES, GroupWriter


class Retry(Exception):
    pass


class FakeSession:
    """Closures get a list to append to; `commits` holds what each commit made durable."""

    def __init__(self, in_loop: bool, in_thread_commit: bool = True) -> None:
        self.run_in_loop = in_loop
        self.commit_in_loop = not in_thread_commit
        self.pending: list[Any] = []
        self.commits: list[list[Any]] = []
        self.commit_errors: list[Exception] = []
        self.refuse: Callable[[list[Any]], bool] = lambda pending: False
        self.broken = False
        self.closed = False
        self.begins = 0

    def begin(self, wait: bool) -> bool:
        self.pending = []
        self.begins += 1
        return True

    def run(self, fn: Callable[[Any], Any]) -> Any:
        mark = len(self.pending)
        try:
            return fn(self.pending)
        except BaseException:
            del self.pending[mark:]
            raise

    def alive(self) -> bool:
        return not self.broken

    def commit(self) -> None:
        if self.commit_errors:
            raise self.commit_errors.pop(0)
        if self.refuse(self.pending):
            raise OSError("full")
        self.commits.append(self.pending)

    def rollback(self) -> None:
        self.pending = []

    def touched(self) -> frozenset[Touched]:
        return frozenset(Touched("x", str(value)) for value in self.pending)

    def wants_retry(self, error: BaseException) -> bool:
        return isinstance(error, Retry)

    def unknown(self, error: BaseException) -> bool:
        return self.broken

    def translate(self, error: BaseException) -> BaseException:
        return RuntimeError(f"translated {error}") if isinstance(error, (OSError, Retry)) else error

    def maintenance_due(self) -> bool:
        return False

    def maintain(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def put(value: int) -> Callable[[list[Any]], int]:
    def fn(pending: list[Any]) -> int:
        pending.append(value)
        return value

    return fn


@pytest.fixture(params=["loop+thread", "loop", "thread"])
def session(request: pytest.FixtureRequest) -> FakeSession:
    return FakeSession(request.param != "thread", request.param != "loop")


async def test_a_commit_that_fails_is_split_and_only_the_culprit_fails(session: FakeSession) -> None:
    session.refuse = lambda pending: 2 in pending
    writer: GroupWriter[list[Any]] = GroupWriter(session)
    heard: list[frozenset[Touched]] = []
    writer.on_commit(heard.append)
    results = await asyncio.gather(*(writer.submit(put(n)) for n in range(4)), return_exceptions=True)
    assert [r for r in results if isinstance(r, int)] == [0, 1, 3]
    assert isinstance(results[2], RuntimeError)
    assert session.commits == [[0], [1], [3]]
    assert [len(touched) for touched in heard] == [1, 1, 1]
    await writer.close()
    assert session.closed


async def test_an_error_judged_on_a_neighbours_lost_change_is_judged_again(session: FakeSession) -> None:
    def refuse_after_one(pending: list[Any]) -> str:
        if 1 in pending:
            raise ValueError("taken")
        return "free"

    session.refuse = lambda pending: 1 in pending
    writer: GroupWriter[list[Any]] = GroupWriter(session)
    results = await asyncio.gather(
        writer.submit(put(1)), writer.submit(refuse_after_one), writer.submit(put(2)), return_exceptions=True
    )
    assert isinstance(results[0], RuntimeError)
    assert results[1:] == ["free", 2]
    await writer.close()


async def test_a_batch_is_retried_when_the_database_asks() -> None:
    session = FakeSession(False)
    session.commit_errors = [Retry(), Retry()]
    writer: GroupWriter[list[Any]] = GroupWriter(session)
    assert await asyncio.gather(*(writer.submit(put(n)) for n in range(3))) == [0, 1, 2]
    assert session.commits == [[0, 1, 2]]
    assert session.begins == 3
    await writer.close()


async def test_retries_end() -> None:
    session = FakeSession(False)
    session.commit_errors = [Retry() for _ in range(MAX_TRIES)]
    writer: GroupWriter[list[Any]] = GroupWriter(session)
    with pytest.raises(RuntimeError, match="translated"):
        await writer.submit(put(1))
    assert session.commits == []
    assert await writer.submit(put(2)) == 2
    await writer.close()


async def test_nothing_is_run_again_when_the_connection_broke(session: FakeSession) -> None:
    writer: GroupWriter[list[Any]] = GroupWriter(session)
    session.commit_errors = [OSError("gone")]
    session.broken = False
    runs: list[int] = []

    def fn(pending: list[Any]) -> None:
        runs.append(1)
        pending.append(1)

    def breaking(pending: list[Any]) -> None:
        pending.append(2)
        session.broken = True
        raise OSError("gone")

    results = await asyncio.gather(writer.submit(fn), writer.submit(breaking), return_exceptions=True)
    assert all(isinstance(result, RuntimeError) for result in results)
    assert len(runs) == 1
    assert session.commits == []
    await writer.close()


async def test_batches_are_bounded(session: FakeSession) -> None:
    writer: GroupWriter[list[Any]] = GroupWriter(session)
    await asyncio.gather(*(writer.submit(put(n)) for n in range(MAX_BATCH + 10)))
    assert sum(map(len, session.commits)) == MAX_BATCH + 10
    assert max(map(len, session.commits)) <= MAX_BATCH
    await writer.close()


async def test_long_batches_give_others_a_turn() -> None:
    session = FakeSession(True)
    writer: GroupWriter[list[Any]] = GroupWriter(session)
    turns = 0

    def slow(pending: list[Any]) -> None:
        time.sleep(0.003)
        pending.append(turns)

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(other())
    await asyncio.gather(*(writer.submit(slow) for _ in range(10)))
    beside.cancel()
    # The other task ran between the closures of one transaction.
    assert len(set(session.commits[0])) > 3
    await writer.close()


async def test_odd_exceptions_reach_their_writer(session: FakeSession) -> None:
    writer: GroupWriter[list[Any]] = GroupWriter(session)

    def stop(pending: list[Any]) -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await writer.submit(stop)
    assert session.commits == []
    await writer.close()
    await writer.close()
