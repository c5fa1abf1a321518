"""What a kind of job makes of a body before it is stored, and who else but a user submits: another job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tidemill.app.services import Services
from tidemill.domain.model import Caller, JobState, Resource, Scope
from tidemill.domain.plan import JobStatus
from tidemill.store.api import Tx


@dataclass(frozen=True, slots=True)
class Child:
    """Submitted by a job that runs. `told`: events (code, message) of the parent, in the child's commit.
    `keeps`: its result may be used again; `reuse`: an earlier result may stand for it;
    `made`: inputs that other children made."""

    parent: Resource
    step: str
    told: tuple[tuple[str, str], ...] = ()
    keeps: bool = False
    reuse: bool = False
    made: tuple[str, ...] = ()


def nothing_more(_: Tx) -> None: ...


def nothing_besides(_: Tx, __: Resource) -> None: ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that may be stored. `where`: what it is submitted to, for the time line; `notes`: events that
    follow (code, message); `check`: a last look inside the commit, which may raise."""

    state: JobState
    status: JobStatus
    job_type: str  # ARM's: "Command", "Pipeline", …
    where: str
    notes: tuple[tuple[str, str], ...] = ()
    properties: tuple[tuple[str, str], ...] = ()  # added to the run's own
    ref: str = ""  # the compute's uid, of a job that the scheduler places
    check: Callable[[Tx], None] = nothing_more
    shown: Mapping[str, Any] = field(default_factory=dict[str, Any])  # in place of what the body says
    also: Callable[[Tx, Resource], None] = nothing_besides  # in the commit that makes the job


class Prepare(Protocol):
    """Reads a body and resolves all it names. Raises what the user is told; writes nothing."""

    def __call__(
        self,
        s: Services,
        caller: Caller,
        scope: Scope,
        name: str,
        properties: Mapping[str, Any],
        child: Child | None,
    ) -> Awaitable[Prepared]: ...
