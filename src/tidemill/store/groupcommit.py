"""Group commit: everything that is waiting shares one transaction and one fsync.

A `Session` is one writing connection. Only one thread uses it at a time, but not always the same one:

- `run_in_loop` (SQLite, memory): closures run on the event loop, in slices of a few milliseconds, and only
  the COMMIT with its fsync goes to the writer thread. A closure is a handful of statements of some
  microseconds; in another thread each would wait for the interpreter lock whenever the loop is busy (up to
  5 ms apiece).
- otherwise (PostgreSQL): the whole batch runs in the writer thread, because every statement is a round trip.

What a batch guarantees: a closure that raises is undone alone; results are given out after the commit only;
listeners hear once per commit before any writer of it resumes. Closures may be run again: when the database
asks for a retry (serialization) the whole batch is; when a commit fails (disk full), each is tried alone, so
that one that does not fit fails alone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from tidemill.domain.model import Touched

T = TypeVar("T")
TxT = TypeVar("TxT")
Listener = Callable[[frozenset[Touched]], None]

MAX_BATCH = 256  # closures per commit
SLICE_S = 0.002  # how long closures may hold the loop before others get a turn
MAX_TRIES = 25  # of a batch that the database wants again

_log = logging.getLogger(__name__)


class Session(Protocol):
    """One writing connection and its transaction."""

    run_in_loop: bool
    commit_in_loop: bool

    def begin(self, wait: bool) -> bool:
        """Starts a transaction. False: another process holds the lock and `wait` is false."""
        ...

    def run(self, fn: Callable[[Any], T]) -> T:
        """Runs one closure in a savepoint; on an exception its changes are undone and it is raised."""
        ...

    def alive(self) -> bool:
        """False when the database gave up the whole transaction because of the last error."""
        ...

    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def touched(self) -> frozenset[Touched]:
        """What the transaction changed so far; cleared by the next begin."""
        ...

    def wants_retry(self, error: BaseException) -> bool:
        """The database asks for the transaction to be run again (serialization, deadlock)."""
        ...

    def unknown(self, error: BaseException) -> bool:
        """The connection broke: whether the commit happened is not known, so nothing is run again."""
        ...

    def translate(self, error: BaseException) -> BaseException:
        """The database's error as one that a caller understands."""
        ...

    def maintenance_due(self) -> bool: ...
    def maintain(self) -> None:
        """Work that must not meet a writer (a full checkpoint); between two commits, in the writer thread."""
        ...

    def close(self) -> None: ...


class Item:
    """A closure, who waits for it, and how its last run ended."""

    __slots__ = ("alone", "error", "fn", "future", "result")

    def __init__(self, fn: Callable[[Any], Any], future: asyncio.Future[Any]) -> None:
        self.fn = fn
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None
        self.alone = False


class GroupWriter(Generic[TxT]):
    """Queue, transaction and acknowledgement. All methods are called on the event loop."""

    def __init__(self, session: Session, name: str = "writer") -> None:
        self._session = session
        self._queue: deque[Item] = deque()
        self._batch: list[Item] = []  # run in the open transaction
        self._open = False
        self._busy = False  # a pump is scheduled or the thread holds the session
        self._closing: asyncio.Future[None] | None = None
        self._closed = False
        self._listeners: list[Listener] = []
        self._worker = _Worker(name)

    def on_commit(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def submit(self, fn: Callable[[TxT], T]) -> asyncio.Future[T]:
        """The closure's result, once its commit is on disk. Cancelling the future before the closure ran
        drops it; after that it may or may not have been committed."""
        if self._closed or self._closing is not None:
            raise RuntimeError("the store is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.append(Item(fn, future))
        if not self._busy:
            self._busy = True
            # Not at once: writers of the same turn of the loop share the commit.
            loop.call_soon(self._pump, loop)
        return future

    async def close(self) -> None:
        """Commits what is queued, then closes the session."""
        if self._closed:
            return
        if self._busy or self._queue:
            self._closing = asyncio.get_running_loop().create_future()
            await self._closing
        self._closed = True
        self._worker.stop()
        self._session.close()

    # One turn: begin, run closures, commit. `_idle` ends it or starts the next.

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._open and not self._queue:
            self._idle(loop)
        elif not self._session.run_in_loop:
            self._worker.do(loop, self._run_batch_in_thread, self._settle)
        elif self._open or self._begin(loop):
            self._run_slice(loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> bool:
        try:
            self._open = self._session.begin(wait=False)
        except Exception as error:
            self._batch, self._open = [self._queue.popleft()], False
            self._settle(loop, error)
            return False
        if not self._open:
            self._worker.do(loop, self._begin_in_thread, self._begun)
        return self._open

    def _begin_in_thread(self) -> BaseException | None:
        try:
            self._session.begin(wait=True)
        except Exception as error:
            return error
        return None

    def _begun(self, loop: asyncio.AbstractEventLoop, error: BaseException | None) -> None:
        if error is None:
            self._open = True
            self._pump(loop)
        else:
            self._batch = [self._queue.popleft()]
            self._settle(loop, error)

    def _run_slice(self, loop: asyncio.AbstractEventLoop) -> None:
        deadline = time.perf_counter() + SLICE_S
        while self._more():
            item = self._queue.popleft()
            if item.future.cancelled():
                continue
            self._batch.append(item)
            error = self._run(item)
            if error is not None:
                self._settle(loop, error)
                return
            if not self._session.commit_in_loop and time.perf_counter() > deadline and self._more():
                loop.call_soon(self._pump, loop)
                return
        if self._session.commit_in_loop:
            self._settle(loop, self._commit())
        else:
            self._worker.do(loop, self._commit, self._settle)

    def _more(self) -> bool:
        if not self._queue or len(self._batch) >= MAX_BATCH:
            return False
        return not self._batch or not (self._batch[0].alone or self._queue[0].alone)

    def _run(self, item: Item) -> BaseException | None:
        """Runs one closure. Returns an error that ended the whole transaction, else None."""
        item.error = None
        try:
            item.result = self._session.run(item.fn)
        except BaseException as error:
            if self._session.wants_retry(error) or not self._session.alive():
                return error
            item.error = self._session.translate(error)
        return None

    def _commit(self) -> BaseException | None:
        try:
            # Nothing but failures: nothing to put on disk.
            if all(item.error is not None for item in self._batch):
                self._session.rollback()
            else:
                self._session.commit()
        except BaseException as error:
            return error
        return None

    def _run_batch_in_thread(self) -> BaseException | None:
        """A whole batch with the retries that a serializable database asks for."""
        # The loop only appends to the queue while the thread works.
        while self._more():
            item = self._queue.popleft()
            if not item.future.cancelled():
                self._batch.append(item)
        tries = 1
        while True:
            error = self._try_batch()
            if error is None or tries == MAX_TRIES or not self._session.wants_retry(error):
                return error
            self._session.rollback()
            time.sleep(min(0.0005 * 2**tries, 0.05))
            tries += 1

    def _try_batch(self) -> BaseException | None:
        try:
            self._session.begin(wait=True)
        except Exception as error:
            return error
        self._open = True
        for item in self._batch:
            error = self._run(item)
            if error is not None:
                return error
        return self._commit()

    def _settle(self, loop: asyncio.AbstractEventLoop, error: BaseException | None) -> None:
        """It is over: tell listeners, then writers. A batch that could not be stored is split."""
        batch, self._batch, self._open = self._batch, [], False
        if error is None:
            touched = self._session.touched()
            if touched and any(item.error is None for item in batch):
                self._tell(touched)
            for item in batch:
                _resolve(item)
        else:
            # One that could not begin has no transaction; rollback is then nothing.
            self._session.rollback()
            if len(batch) == 1 or self._session.unknown(error):
                shown = self._session.translate(error)
                for item in batch:
                    item.error = shown
                    _resolve(item)
            else:
                for item in reversed(batch):
                    item.alone = True
                    self._queue.appendleft(item)
        if self._session.maintenance_due():
            self._worker.do(loop, self._maintain, self._maintained)
        else:
            self._next(loop)

    def _maintain(self) -> BaseException | None:
        try:
            self._session.maintain()
        except Exception as error:
            return error
        return None

    def _maintained(self, loop: asyncio.AbstractEventLoop, error: BaseException | None) -> None:
        if error is not None:
            _log.warning("store maintenance failed, tried again later: %s", error)
        self._next(loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._queue:
            loop.call_soon(self._pump, loop)
        else:
            self._idle(loop)

    def _idle(self, loop: asyncio.AbstractEventLoop) -> None:
        self._busy = False
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)

    def _tell(self, touched: frozenset[Touched]) -> None:
        for listener in self._listeners:
            try:
                listener(touched)
            except Exception:
                _log.exception("a commit listener failed")


def _resolve(item: Item) -> None:
    if item.future.done():
        return
    if item.error is None:
        item.future.set_result(item.result)
    elif isinstance(item.error, StopIteration):
        item.future.set_exception(RuntimeError(f"a closure raised {item.error!r}"))
    else:
        item.future.set_exception(item.error)


class _Worker:
    """One daemon thread, started on first use, that does one thing at a time and reports to the loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Callable[[], BaseException | None],
        then: Callable[[asyncio.AbstractEventLoop, BaseException | None], None],
    ) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()

        def job() -> None:
            error = work()
            # A loop that was closed meanwhile has nobody left to tell.
            if not loop.is_closed():
                loop.call_soon_threadsafe(then, loop, error)

        self._jobs.put(job)

    def stop(self) -> None:
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
