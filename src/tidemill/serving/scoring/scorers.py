"""How a target is run: one request after another, concurrently (async run), or joined in batches."""

from __future__ import annotations

import asyncio
import resource
import signal
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any, Awaitable

from . import answers, tensors
from .answers import Answer
from .http import Refused
from .log import Log, write
from .request import Request
from .script import Target
from .shared import Board

if TYPE_CHECKING:
    from .connection import Connection


class ScoringTimeout(Exception):
    """run() took longer than SCORING_TIMEOUT_MS."""


class Pulse:
    """Signs of life for the supervisor: when this worker was last seen to begin or go on with something."""

    def __init__(self, board: Board, index: int, several: bool) -> None:
        """`several`: there are other workers that could take what waits here."""
        self._busy = board.busy
        self._slow = board.slow
        self._index = index
        self._several = several
        self.slow = False

    def beat(self, now: float) -> None:
        self._busy[self._index] = now

    def rest(self) -> None:
        self._busy[self._index] = 0.0

    def is_slow(self, slow: bool) -> None:
        if self._several and slow is not self.slow:
            self.slow = slow
            self._slow[self._index] = slow


class Alarm:
    """SIGALRM raises ScoringTimeout in the main thread while a run is on, and never after it."""

    def __init__(self, milliseconds: float) -> None:
        self._seconds = milliseconds / 1000
        self._on = False
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, *_: Any) -> None:
        if self._on:
            self._on = False
            raise ScoringTimeout

    def start(self) -> None:
        self._on = True
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def stop(self) -> None:
        self._on = False
        signal.setitimer(signal.ITIMER_REAL, 0)


def usage() -> tuple[float, int]:
    """Of this thread: CPU seconds, and how often it has gone to sleep of its own."""
    found = resource.getrusage(resource.RUSAGE_THREAD)
    return found.ru_utime + found.ru_stime, found.ru_nvcsw


def preempted(before: tuple[float, int], after: tuple[float, int], taken: float) -> bool:
    """Whether most of `taken` seconds went by because others had the processor."""
    return after[1] == before[1] and after[0] - before[0] < taken / 2


class Scorer:
    """`submit` is called with a request for /score, and later calls `connection.reply` once for it."""

    def __init__(
        self, target: Target, pulse: Pulse, log: Log, timeout_ms: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.target = target
        self.pulse = pulse
        self.log = log
        self.timeout_ms = timeout_ms
        self.loop = loop
        self.in_flight = 0

    def submit(self, connection: Connection, request: Request) -> None:
        raise NotImplementedError

    def failure(self, error: BaseException, request: Request) -> Answer:
        """A clean answer; the traceback, from the user's code on, goes to the log."""
        if isinstance(error, Refused):
            if request.path.startswith("/v2/"):
                return tensors.error(error.status, error.message)
            return answers.error(error.status, error.message)
        if isinstance(error, (ScoringTimeout, asyncio.TimeoutError)) and not error.args:
            self.log.error("run() did not finish within SCORING_TIMEOUT_MS=%g", self.timeout_ms)
            return answers.failed(500, f"Scoring timeout after {self.timeout_ms:g} ms")
        trace = error.__traceback__
        while (
            trace is not None and trace.tb_frame.f_globals.get("__package__") == __package__ and trace.tb_next
        ):
            trace = trace.tb_next
        write("".join(traceback.format_exception(type(error), error, trace)))
        return answers.failed(500)

    def finished(self, result: Any, item: Any, request: Request, run_ms: float) -> Answer:
        try:
            answer = self.target.finish(result, item)
        except BaseException as error:
            return self.failure(error, request)
        answer.run_ms = run_ms
        return answer


class Inline(Scorer):
    """A synchronous run(), one request at a time, in the thread of the event loop: no hop.

    Brisk runs are grouped: what has arrived is run back to back and answered together, within HOLD_S.
    Between run() and the network's code the processor's caches change hands, which at 0.1 ms a run costs a
    quarter of the rate. After a run that was not brisk, the next UNSETTLED ones are answered each at once;
    after a slow one, the next MISTRUST, so that hardly ever an answer waits behind the run of another.
    """

    HOLD_S = 0.001
    BRISK_S = 0.001
    SLOW_S = 0.05
    UNSETTLED = 200
    MISTRUST = 100_000

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._alarm = Alarm(self.timeout_ms)
        self._streams = False
        self._soon = False
        self._mistrust = 16  # first runs are slower than those to come
        self._unsettled = 0
        self._usage = usage()
        self._queue: deque[tuple[Connection, Request]] = deque()

    def submit(self, connection: Connection, request: Request) -> None:
        self._queue.append((connection, request))
        self._schedule()

    def _schedule(self) -> None:
        if self._queue and not self._soon and not self._streams:
            self._soon = True
            self.loop.call_soon(self._run)

    def _run(self) -> None:
        """Runs a group; then the loop reads what arrived meanwhile."""
        self._soon = False
        held: list[tuple[Connection, Request, Answer]] = []
        end = time.monotonic() + self.HOLD_S
        self._usage = usage()
        while self._queue:
            connection, request = self._queue.popleft()
            if connection.gone:
                continue
            answer = self.score(request)
            held.append((connection, request, answer))
            if answer.stream is not None:
                self._streams = True
            if self._streams or self._mistrust or time.monotonic() >= end:
                break
        for connection, request, answer in held:
            connection.reply(request, answer)
        self._schedule()

    def score(self, request: Request) -> Answer:
        start = time.monotonic()
        self.pulse.beat(start)
        try:
            item = self.target.read(request)
            self._alarm.start()
            try:
                result = self.target.one(item)
            finally:
                self._alarm.stop()
        except BaseException as error:
            return self.failure(error, request)
        finally:
            self.pulse.rest()
        taken = time.monotonic() - start
        self._judge(taken)
        return self.finished(result, item, request, taken * 1000)

    def _judge(self, taken: float) -> None:
        """A run that only waited for a processor says nothing of itself."""
        if taken > self.BRISK_S and not preempted(self._usage, usage(), taken):
            self._unsettled = self.UNSETTLED
            self._mistrust = max(self._mistrust, self.MISTRUST if taken > self.SLOW_S else self.UNSETTLED)
            self.pulse.is_slow(True)
        elif self._mistrust:
            self._mistrust -= 1
            self._unsettled = max(0, self._unsettled - 1)
            self.pulse.is_slow(self._unsettled > 0)

    def stream_ended(self) -> None:
        self._streams = False
        self._schedule()


class Concurrent(Scorer):
    """An async run(): all requests at once, on the event loop."""

    BEAT_S = 0.5

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._tasks: dict[Connection, asyncio.Task[None]] = {}
        self._ticks = False

    def submit(self, connection: Connection, request: Request) -> None:
        self.in_flight += 1
        if self.in_flight == 1:
            self.pulse.beat(time.monotonic())
        if not self._ticks:
            self._ticks = True
            self.loop.call_later(self.BEAT_S, self._tick)
        self._tasks[connection] = self.loop.create_task(self._run(connection, request))

    def _tick(self) -> None:
        """Beats while requests are in flight; a run() that blocks the loop stops it."""
        self._ticks = self.in_flight > 0
        if self._ticks:
            self.pulse.beat(time.monotonic())
            self.loop.call_later(self.BEAT_S, self._tick)

    async def _run(self, connection: Connection, request: Request) -> None:
        start = time.monotonic()
        try:
            item = self.target.read(request)
            result = self.target.one(item)
            if isinstance(result, Awaitable):
                result = await asyncio.wait_for(result, self.timeout_ms / 1000)
            answer = self.finished(result, item, request, (time.monotonic() - start) * 1000)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            answer = self.failure(error, request)
        finally:
            self.in_flight -= 1
            self._tasks.pop(connection, None)
            if not self.in_flight:
                self.pulse.rest()
        connection.reply(request, answer)

    def gone(self, connection: Connection) -> None:
        """The caller hung up: its run() is cancelled."""
        task = self._tasks.pop(connection, None)
        if task is not None:
            task.cancel()


class Batched(Scorer):
    """Requests that wait are run together, each answer goes to its own caller.

    Without a wait, a batch is what arrived while the one before it ran: a lone request is not delayed at
    all. With `wait_s`, the first of a batch waits that long at most for others. A batch that fails is run
    one by one, so that only the bad ones fail.
    """

    def __init__(self, *args: Any, size: int, wait_s: float) -> None:
        super().__init__(*args)
        self._alarm = Alarm(self.timeout_ms)
        self._size = size
        self._wait_s = wait_s
        self._queue: deque[tuple[Connection, Request, Any]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._soon = False

    def submit(self, connection: Connection, request: Request) -> None:
        try:
            item = self.target.read(request)
        except BaseException as error:
            connection.reply(request, self.failure(error, request))
            return
        self._queue.append((connection, request, item))
        self.in_flight += 1
        self._schedule()

    def _schedule(self) -> None:
        if self._soon or not self._queue:
            return
        if not self._wait_s or len(self._queue) >= self._size:
            self._soon = True
            self.loop.call_soon(self._run)
        elif self._timer is None:
            self._timer = self.loop.call_later(self._wait_s, self._run)

    def _run(self) -> None:
        self._soon = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = [self._queue.popleft() for _ in range(min(self._size, len(self._queue)))]
        waiting = [entry for entry in batch if not entry[0].gone]
        self.in_flight -= len(batch) - len(waiting)
        start = time.monotonic()
        if waiting:
            results = self._results([item for _, _, item in waiting], start)
            run_ms = (time.monotonic() - start) * 1000
            self.in_flight -= len(waiting)
            for (connection, request, item), result in zip(waiting, results):
                if isinstance(result, BaseException):
                    answer = self.failure(result, request)
                else:
                    answer = self.finished(result, item, request, run_ms)
                connection.reply(request, answer)
        self._schedule()

    def _results(self, items: list[Any], start: float) -> list[Any]:
        self.pulse.beat(start)
        try:
            if len(items) > 1 and self.target.many is not None:
                self._alarm.start()
                try:
                    return self.target.many(items)
                finally:
                    self._alarm.stop()
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            self.log.warning(
                "a batch of %s requests failed (%s); they are run one by one", len(items), reason[:500]
            )
        finally:
            self.pulse.rest()
        return [self._one(item) for item in items]

    def _one(self, item: Any) -> Any:
        self.pulse.beat(time.monotonic())
        self._alarm.start()
        try:
            return self.target.one(item)
        except BaseException as error:
            return error
        finally:
            self._alarm.stop()
            self.pulse.rest()
