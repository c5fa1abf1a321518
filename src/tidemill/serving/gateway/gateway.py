"""The gateway of one process: callers' connections on one side, instances on the other, the table between."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
from collections.abc import Awaitable, Callable
from typing import Any

from tidemill.domain.serving.routes import Table
from tidemill.serving.gateway import admission, prometheus
from tidemill.serving.gateway.access_log import AccessLog
from tidemill.serving.gateway.admission import AAD_TOKEN, AML_TOKEN, KEY, Admitted
from tidemill.serving.gateway.client import Client, Memo
from tidemill.serving.gateway.dispatch import IDLE_S, Dial, Dispatcher
from tidemill.serving.gateway.exchange import Exchange
from tidemill.serving.gateway.http1 import Request
from tidemill.serving.gateway.live import Deployment, Live, LiveEndpoint
from tidemill.serving.gateway.refusals import Denied, Told

Check = Callable[[LiveEndpoint, str], Awaitable[None]]
"""Whether a token opens an endpoint. Raises Denied."""

LOOK_S = 1.0  # how often connections are looked at, while there are any
MOST_CONNECTIONS = 8192
MOST_MIRRORED = 100  # requests under way at a deployment that gets copies


class Shadow:
    """The caller of mirrored requests: nobody. See exchange.Caller."""

    peer = b"mirror"
    forwarded = b""

    def answer(self, exchange: Exchange, data: bytes, ended: bool) -> None: ...
    def fail(self, exchange: Exchange, status: int, code: str, message: str) -> None: ...
    def wants_body(self, exchange: Exchange) -> None: ...
    def hold_body(self, exchange: Exchange) -> None: ...
    def tunnel(self, exchange: Exchange, data: bytes) -> None: ...


class Gateway:
    """`on_news(at once)` is called when what control is told has changed."""

    tunnel_idle_s = 3600.0

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dial: Dial,
        check: Check,
        log: AccessLog,
        metrics_token: str,
    ) -> None:
        self.loop = loop
        self.now = loop.time
        self.drains = False
        self.live = Live(random.Random().shuffle)
        self.dispatcher = Dispatcher(loop, dial, lambda urgent: self.on_news(urgent), log)
        self.on_news: Callable[[bool], None] = lambda _: None
        self._check = check
        self._log = log
        self._metrics_token = metrics_token
        self._clients: set[Client] = set()
        self._most = connections_allowed()
        self._looking: asyncio.TimerHandle | None = None
        self._checks: set[asyncio.Task[None]] = set()
        self._ids = os.urandom(10).hex().encode()
        self._id = 0

    # --- the table

    def apply(self, table: Table) -> None:
        for gone in self.live.apply(table):
            self.dispatcher.drop(gone)
        for deployment in self.live.deployments.values():
            if deployment.waiting:
                self.dispatcher.wake(deployment)
        self.on_news(True)

    def report(self) -> dict[str, Any]:
        """What control is told: see controllers/routing.py."""
        now = self.now()
        in_flight: dict[str, int] = {}
        for instance in self.live.instances():
            if instance.in_flight:
                uid = instance.target.uid
                in_flight[uid] = in_flight.get(uid, 0) + instance.in_flight
        deployments = self.live.deployments
        return {
            "version": self.live.version,
            "in_flight": in_flight,
            "held": {
                uid: len(one.waiting) for uid, one in deployments.items() if one.waiting and not one.instances
            },
            "deployments": {uid: one.metrics.report(now) for uid, one in deployments.items()},
        }

    # --- connections

    def came(self, client: Client) -> None:
        if len(self._clients) >= self._most:
            client.abort()
            return
        self._clients.add(client)
        if self._looking is None:
            self._looking = self.loop.call_later(LOOK_S, self._look)

    def left(self, client: Client) -> None:
        self._clients.discard(client)

    def _look(self) -> None:
        now = self.now()
        for client in list(self._clients):
            client.look_at_clock(now)
        idle = False
        for instance in self.live.instances():
            for upstream in instance.idle[:]:
                if not upstream.idle_since:
                    upstream.idle_since = now
                elif now - upstream.idle_since > IDLE_S:
                    upstream.close()
            idle = idle or bool(instance.idle)
        self._log.flush()
        self.on_news(False)  # rates fall when nobody asks
        self._looking = self.loop.call_later(LOOK_S, self._look) if self._clients or idle else None

    async def drain(self, seconds: float) -> None:
        """No new requests; returns when those under way have ended, or after `seconds`."""
        self.drains = True
        for client in list(self._clients):
            client.drain()
        until = self.now() + seconds
        while self.dispatcher.active and self.now() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for client in list(self._clients):
            client.abort()
        self._log.flush()

    # --- requests

    def admit(self, client: Client, request: Request) -> Admitted | None:
        """None where a token must be looked at first. Raises Denied, Told."""
        if request.target == prometheus.TARGET:
            self._tell_metrics(client, request)
        endpoint, path = admission.find(self.live, request)
        admission.check_reach(endpoint, client.is_local)
        secret = admission.bearer(request)
        if endpoint.record.auth != KEY:
            return None
        admission.check_key(endpoint, secret)
        if endpoint.record.rate:
            admission.check_rate(endpoint, self.now())
        return endpoint, admission.choose(endpoint, request), path

    def _tell_metrics(self, client: Client, request: Request) -> None:
        """Raises Told, Denied."""
        if client.is_local and prometheus.may_read(request.authorization, self._metrics_token):
            raise Told(prometheus.KIND, prometheus.text(self.live))
        text = (
            f"Metrics are for this machine, with the token of {prometheus.TOKEN_FILE} in the home's serving/."
        )
        raise Denied(401, "Unauthorized", text, admission.CHALLENGE)

    def again(self, memo: Memo) -> Admitted:
        """One more request with the same head. Raises Denied."""
        endpoint, _, path = memo.admitted
        if endpoint.record.rate:
            admission.check_rate(endpoint, self.now())
        return endpoint, admission.choose(endpoint, memo.request), path

    def look(
        self, client: Client, request: Request, done: Callable[[Request, Admitted | Denied], None]
    ) -> None:
        """The rest of an admission that takes reading."""

        async def check() -> None:
            try:
                endpoint, path = admission.find(self.live, request)
                await self._check(endpoint, admission.bearer(request).decode("latin-1"))
                if endpoint.record.rate:
                    admission.check_rate(endpoint, self.now())
                done(request, (endpoint, admission.choose(endpoint, request), path))
            except Denied as denied:
                done(request, denied)
            except Exception:
                self._log.failed("a token could not be looked at")
                done(request, Denied(503, "NotNow", "The token cannot be looked at now. Try again."))

        task = self.loop.create_task(check())
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    def exchange(
        self, client: Client | Shadow, request: Request, admitted: Admitted, body: bytes, whole: bool
    ) -> Exchange:
        _, deployment, path = admitted
        if deployment.score_path is not None:
            path = admission.path_at(deployment, path)
        identity = request.request_id
        if identity:
            more = b"\r\n"
        else:
            self._id += 1
            identity = b"%b%012x" % (self._ids, self._id)
            more = b"X-Request-Id: %b\r\n\r\n" % identity
        if request.upgrade:
            more = b"Connection: Upgrade\r\nUpgrade: %b\r\n%b" % (request.upgrade, more)
        head = b"%b %b HTTP/1.1\r\n%b%b%b" % (request.method, path, request.fields, client.forwarded, more)
        return Exchange(client, request, deployment, head, body, whole, identity)

    def dispatch(self, exchange: Exchange, admitted: Admitted) -> None:
        self.dispatcher.start(exchange)
        endpoint = admitted[0]
        if endpoint.mirror is not None and exchange.whole and not exchange.request.upgrade:
            card = endpoint.mirror.deal()
            if card >= 0:  # once the caller's own request is on its way
                self.loop.call_soon(self._mirror, exchange, endpoint, endpoint.mirrored[card], admitted[2])

    def _mirror(
        self, original: Exchange, endpoint: LiveEndpoint, deployment: Deployment, path: bytes
    ) -> None:
        """A copy, whose answer is for nobody. One that finds many others under way is not made."""
        if deployment.metrics.in_flight >= MOST_MIRRORED:
            return
        request, body = original.request, original.body
        copy = self.exchange(Shadow(), request, (endpoint, deployment, path), body, True)
        self.dispatcher.start(copy)

    def denied(self, client: Client, request: Request | None, denied: Denied) -> None:
        self._log.denied(client.peer, request, denied.status)


def quiet_collector() -> None:
    """What was made by the start stays; a request leaves no cycles, so the collector need not look often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


def connections_allowed() -> int:
    """Three in eight of the files that this process may open: each caller's may take one to an instance."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, soft * 3 // 8)


__all__ = ["AAD_TOKEN", "AML_TOKEN", "KEY", "Check", "Gateway"]
