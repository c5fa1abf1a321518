"""One request on its way to an instance, and its answer on the way back."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tidemill.serving.gateway.http1 import Request
    from tidemill.serving.gateway.live import Deployment, Instance
    from tidemill.serving.gateway.upstream import Upstream


class Caller(Protocol):
    """Whom the answer is for. `peer`: its address."""

    peer: bytes

    def answer(self, exchange: Exchange, data: bytes, ended: bool) -> None:
        """Bytes of the answer. `ended`: there are no more."""
        ...

    def fail(self, exchange: Exchange, status: int, code: str, message: str) -> None:
        """There is no answer, or not all of it."""
        ...

    def wants_body(self, exchange: Exchange) -> None:
        """The instance takes more of a body that is sent on as it comes."""
        ...

    def hold_body(self, exchange: Exchange) -> None:
        """It does not."""
        ...

    def tunnel(self, exchange: Exchange, data: bytes) -> None:
        """The connection speaks another protocol from now on."""
        ...


class Exchange:
    """`head`: the request's line and fields as the instance gets them. `body`: all of it if `whole`, else
    what has come. `deadline`: seconds of the loop's clock, 0 for none; `wait_until`: until when it waits for
    an instance. `keep_alive`: the caller's connection goes on after the answer. `answered`: bytes of the
    answer have come. `over`: nothing more is to be done."""

    keep_alive: bool
    instance: Instance | None = None
    upstream: Upstream | None = None
    deadline = 0.0
    wait_until = 0.0
    tries = 0
    status = 0
    size = 0
    answered = False
    over = False

    def __init__(
        self,
        caller: Caller,
        request: Request,
        deployment: Deployment,
        head: bytes,
        body: bytes,
        whole: bool,
        request_id: bytes,
    ) -> None:
        self.caller = caller
        self.request = request
        self.deployment = deployment
        self.head = head
        self.body = body
        self.whole = whole
        self.keep_alive = request.keep_alive
        self.started = perf_counter_ns()
        self.request_id = request_id
