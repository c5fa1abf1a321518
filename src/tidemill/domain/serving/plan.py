"""What a deployment serves, resolved when it was put, and what has become of it: the `status` JSON of rows
`onlineEndpoints` and `onlineEndpoints/deployments`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tidemill.domain.plan import JobError, Place, PlannedEnvironment
from tidemill.domain.serving.model import DeploymentSpec


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """`place`: a folder (its path ends in '/') or one file of our storage. `name` and `version` are "" of a
    model that is no asset. `flavors`: names, of an `mlflow_model`."""

    given: str
    type: str
    place: Place
    name: str = ""
    version: str = ""
    flavors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeploymentPlan:
    """`user`: object id of who put it; `team` as of jobs; `acts_as`: the endpoint's identity, "" for none."""

    spec: DeploymentSpec
    environment: PlannedEnvironment = field(default_factory=PlannedEnvironment)
    code: Place | None = None
    model: PlannedModel | None = None
    compute_uid: str = ""  # the deployment's own: app.implicit_computes
    account: str = ""  # the workspace's storage account
    team: str = ""
    user: str = ""
    acts_as: str = ""
    isolation: str = ""  # the level its instances must have, "": none


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """`plan` is what was asked for last, and `generation` counts what was asked for that needs other
    instances. `serving` is what instances run of an older one, until the newer serve, or for good where
    that failed; None: those of `plan` serve, or none do. `error`: why the last update, or what serves,
    failed."""

    plan: DeploymentPlan
    generation: int = 1
    sku: dict[str, Any] = field(default_factory=dict[str, Any])
    serving: DeploymentPlan | None = None
    serving_generation: int = 0  # 0: nothing serves yet
    error: JobError | None = None
    scaled: int | None = None  # instances that autoscaling wants; None: it has not said yet


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """`secrets`: the keys, sealed (app.rows.sealed); `digests`: SHA-256 of the primary and the secondary key,
    in hexadecimal. `identity` is ARM's."""

    secrets: str = ""
    digests: tuple[str, ...] = ()
    identity: dict[str, Any] | None = None
