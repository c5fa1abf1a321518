"""Requests find an instance, wait for one, are tried again where that is safe, and end in time."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter_ns

from tidemill.domain.serving.routes import Target
from tidemill.domain.serving.routing import least_loaded
from tidemill.engines.base import EngineError
from tidemill.serving.gateway.access_log import AccessLog
from tidemill.serving.gateway.exchange import Exchange
from tidemill.serving.gateway.live import Deployment, Instance
from tidemill.serving.gateway.upstream import Upstream

Dial = Callable[[Target], Awaitable[socket.socket]]

TICK_S = 0.05  # while requests are under way; what is late is found by it
WAKE_S = 120.0  # a request for a deployment that sleeps is held so long
MOST_WAITING = 1000  # requests of one deployment that wait for an instance; more of one that sleeps
MOST_HELD = 10_000
MOST_TRIES = 4
IDLE_S = 30.0  # connections that nobody needs are closed
_FIRST_DOWN_S, _LONGEST_DOWN_S = 0.1, 2.0
# RFC 9110: a request of these may be sent twice.
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))


class Dispatcher:
    """`on_news(at once)`: what control is told has changed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dial: Dial,
        on_news: Callable[[bool], None],
        log: AccessLog,
    ) -> None:
        self._loop = loop
        self._now = loop.time
        self._dial = dial
        self._news = on_news
        self._log = log
        self._active: set[Exchange] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._dialing: set[asyncio.Task[None]] = set()

    @property
    def active(self) -> int:
        return len(self._active)

    # --- a request's way

    def start(self, exchange: Exchange) -> None:
        metrics = exchange.deployment.metrics
        metrics.in_flight += 1
        metrics.last_ns = exchange.started
        self._active.add(exchange)
        if self._ticking is None:
            self._tick_later()
        self._place(exchange)

    def sent(self, exchange: Exchange) -> None:
        """All of its body was: now the instance has its time to answer."""
        exchange.deadline = self.deadline(exchange)

    def deadline(self, exchange: Exchange) -> float:
        return self._now() + exchange.deployment.backend.timeout_s

    def _place(self, exchange: Exchange) -> None:
        deployment = exchange.deployment
        backend = deployment.backend
        instances = deployment.instances
        now = self._now()
        if (
            len(instances) == 1
            and not instances[0].failures
            and instances[0].in_flight < backend.max_concurrent
        ):
            instance = instances[0]
        else:
            deployment.turn += 1
            instance = least_loaded(instances, backend.max_concurrent, now, deployment.turn)
        if instance is None:
            self._wait(exchange, now)
            return
        instance.in_flight += 1
        exchange.instance = instance
        if exchange.whole:
            exchange.deadline = now + backend.timeout_s
        while instance.idle:
            upstream = instance.idle.pop()
            if not upstream.transport.is_closing():
                upstream.send(exchange)
                return
        instance.pending.append(exchange)
        if instance.dialing < len(instance.pending):
            instance.dialing += 1
            task = self._loop.create_task(self._connect(instance))
            self._dialing.add(task)
            task.add_done_callback(self._dialing.discard)

    def _wait(self, exchange: Exchange, now: float) -> None:
        """No instance is free."""
        deployment = exchange.deployment
        sleeps = deployment.backend.wake and not deployment.instances
        first = not exchange.wait_until
        if first:
            exchange.wait_until = now + (WAKE_S if sleeps else deployment.backend.queue_wait_s)
        if len(deployment.waiting) >= (MOST_HELD if sleeps else MOST_WAITING):
            self.fail(exchange, 429, "TooManyRequests", _too_many(deployment))
        elif now >= exchange.wait_until:
            self._gave_up(exchange)
        else:
            exchange.deadline = 0.0
            deployment.waiting.append(exchange)
            if sleeps and first:
                self._news(True)

    def _gave_up(self, exchange: Exchange) -> None:
        deployment = exchange.deployment
        if deployment.instances and any(not one.failures for one in deployment.instances):
            self.fail(exchange, 429, "TooManyRequests", _too_many(deployment))
        else:
            self.fail(
                exchange,
                503,
                "NoInstance",
                f"Deployment {deployment.name!r} has no instance that answers now.",
            )

    def wake(self, deployment: Deployment) -> None:
        """It may have room for requests that wait."""
        waiting = deployment.waiting
        now = self._now()
        while waiting:
            if waiting[0].over:
                waiting.popleft()
                continue
            if least_loaded(deployment.instances, deployment.backend.max_concurrent, now, 0) is None:
                return
            self._place(waiting.popleft())

    def drop(self, deployment: Deployment) -> None:
        """It was deleted: what waits for it waits in vain."""
        waiting, deployment.waiting = deployment.waiting, deque()
        for exchange in waiting:
            self.fail(exchange, 404, "DeploymentNotFound", f"Deployment {deployment.name!r} was deleted.")

    # --- connections

    async def _connect(self, instance: Instance) -> None:
        try:
            sock = await self._dial(instance.target)
            _, upstream = await self._loop.create_connection(lambda: Upstream(self, instance), sock=sock)
        except (EngineError, OSError):
            instance.dialing -= 1
            self._unreachable(instance)
            return
        instance.dialing -= 1
        self.idle(upstream)

    def idle(self, upstream: Upstream) -> None:
        """A connection that is free takes what waits for one."""
        instance = upstream.instance
        pending = instance.pending
        while pending:
            exchange = pending.popleft()
            if not exchange.over:
                upstream.send(exchange)
                return
        if instance.removed:
            upstream.transport.close()
            return
        upstream.idle_since = 0.0  # about the next look at the clock
        instance.idle.append(upstream)

    def _unreachable(self, instance: Instance) -> None:
        self._avoid(instance)
        while len(instance.pending) > instance.dialing:
            exchange = instance.pending.popleft()
            if not exchange.over:
                self._free(exchange)
                self._place(exchange)

    def not_ready(self, exchange: Exchange) -> None:
        """The instance is there, and has not begun: as if it could not be reached."""
        if exchange.instance is not None:
            self._avoid(exchange.instance)
        self._free(exchange)
        self._place(exchange)

    def _avoid(self, instance: Instance) -> None:
        """For a while; the longer, the more often it failed since it was last reached."""
        now = self._now()
        if instance.down_until <= now:
            instance.down_until = now + min(_FIRST_DOWN_S * 2**instance.failures, _LONGEST_DOWN_S)
            instance.failures += 1

    def lost(self, exchange: Exchange, reused: bool, exc: Exception | None) -> None:
        """The instance closed the connection before its answer was complete."""
        # Reset, not closed: the instance's kernel had bytes of the request that nobody read, so a request
        # that is understood as a whole was not begun.
        unread = isinstance(exc, ConnectionResetError | BrokenPipeError)
        safe = exchange.request.method in _IDEMPOTENT or (reused and unread)
        if exchange.whole and not exchange.answered and safe:
            self._again(exchange, "The instance closed the connection.")
        else:
            text = "The instance ended, or closed the connection, before its answer was complete."
            self.fail(exchange, 502, "BadGateway", text)

    def _again(self, exchange: Exchange, why: str) -> None:
        self._free(exchange)
        exchange.tries += 1
        if exchange.tries < MOST_TRIES:
            self._place(exchange)
        else:
            self.fail(exchange, 503, "NoInstance", why)

    # --- ends

    def finish(self, exchange: Exchange) -> None:
        """It ended, well or not; who asked knows."""
        if exchange.over:
            return
        exchange.over = True
        self._active.discard(exchange)
        us = (perf_counter_ns() - exchange.started) // 1000
        metrics = exchange.deployment.metrics
        metrics.in_flight -= 1
        metrics.answered(us, exchange.status)
        if exchange.answered and exchange.instance is not None:
            exchange.instance.failures = 0
        self._log.ended(exchange, us)
        if exchange.instance is not None:
            self._free(exchange)

    def fail(self, exchange: Exchange, status: int, code: str, message: str) -> None:
        if exchange.over:
            return
        exchange.status = status
        exchange.caller.fail(exchange, status, code, message)
        self.finish(exchange)

    def cancel(self, exchange: Exchange) -> None:
        """Who asked is gone."""
        if exchange.upstream is not None:
            exchange.upstream.abort()
        exchange.status = exchange.status or 499
        self.finish(exchange)

    def _free(self, exchange: Exchange) -> None:
        instance, exchange.instance, exchange.upstream = exchange.instance, None, None
        if instance is None:
            return
        instance.in_flight -= 1
        if instance.deployment.waiting and not instance.removed:
            self.wake(instance.deployment)
        elif instance.removed and not instance.in_flight:
            self._news(True)

    # --- time

    def _tick_later(self) -> None:
        self._ticking = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        now = self._now()
        for exchange in list(self._active):
            if exchange.deadline:
                if now >= exchange.deadline:
                    self._late(exchange)
            elif exchange.instance is None and now >= exchange.wait_until:
                self._gave_up(exchange)
        for deployment in {one.deployment for one in self._active if one.instance is None}:
            deployment.waiting = deque(one for one in deployment.waiting if not one.over)
            self.wake(deployment)
        self._news(False)
        self._log.tick()
        if self._active:
            self._tick_later()
        else:
            self._ticking = None

    def _late(self, exchange: Exchange) -> None:
        if exchange.over:
            return
        if exchange.upstream is not None:
            exchange.upstream.abort()
        backend = exchange.deployment.backend
        text = (
            f"Deployment {backend.name!r} did not answer within {backend.timeout_s:g} s (request_timeout_ms)."
        )
        self.fail(exchange, 408, "RequestTimeout", text)


def _too_many(deployment: Deployment) -> str:
    backend = deployment.backend
    return (
        f"Deployment {deployment.name!r} is busy: each of its {len(deployment.instances)} instances has "
        f"{backend.max_concurrent} requests (max_concurrent_requests_per_instance), and none became free "
        f"within {backend.queue_wait_s:g} s (max_queue_wait_ms)."
    )
