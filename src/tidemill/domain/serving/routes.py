"""The route table: all that the gateway knows of endpoints. Control writes it whole at each change; the
gateway reads it, serves by it while control is down, and says which version it serves.

It holds no secret: of an endpoint's keys only their SHA-256, and keys are 256 random bits.
"""

from __future__ import annotations

from dataclasses import dataclass

FOLDER = "serving"  # below the home
FILE = "routes.json"
SOCKET = "control.sock"  # beside it: where the gateway tells control what it does
MOST_BODY = 128 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Target:
    """An instance that answers: a port of the loopback of a task on a node."""

    uid: str
    node: str
    attempt: str
    rank: int
    port: int


@dataclass(frozen=True, slots=True)
class Backend:
    """A deployment. `wake`: it may have no instances because nobody asks for anything; then requests are
    held, and control is told. `score_path`: of its instances, for the endpoint's /score. Times in
    seconds."""

    name: str
    uid: str
    timeout_s: float = 5.0
    queue_wait_s: float = 0.5
    max_concurrent: int = 1  # per instance
    wake: bool = False
    score_path: str = "/score"
    instances: tuple[Target, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`path`: "SUBSCRIPTION/GROUP/WORKSPACE/NAME". `auth`: "Key" | "AMLToken" | "AADToken"; `digests`: of its
    keys. `traffic` and `mirror`: (deployment, percent); no traffic: requests must name a deployment.
    `public`: it may be reached from outside of this host. `body_bytes`: the most that a request's body may
    have; `rate`: requests a second, 0 for as many as come."""

    path: str
    uid: str
    auth: str
    digests: tuple[str, ...] = ()
    traffic: tuple[tuple[str, int], ...] = ()
    mirror: tuple[tuple[str, int], ...] = ()
    public: bool = True
    deployments: tuple[Backend, ...] = ()
    body_bytes: int = MOST_BODY
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Table:
    """`version` counts up with each change, also over restarts of control."""

    version: int = 0
    endpoints: tuple[Endpoint, ...] = ()
