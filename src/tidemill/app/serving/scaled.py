"""How many instances a deployment may have, and is to have: as asked for, by its scale settings, or by an
autoscale setting, which counts before both."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.app.serving import autoscale_settings
from tidemill.domain.model import Resource
from tidemill.domain.serving.autoscale import Profile, profile_at
from tidemill.domain.serving.model import TARGET_UTILIZATION, DeploymentSpec
from tidemill.domain.serving.plan import DeploymentStatus
from tidemill.store.api import Read


@dataclass(frozen=True, slots=True)
class Bounds:
    """`profile`: of the autoscale setting, None where the deployment's own scale settings say it."""

    minimum: int
    maximum: int
    profile: Profile | None = None


def bounds_of(read: Read, row: Resource, spec: DeploymentSpec, now: int) -> Bounds | None:
    """None: it is not scaled."""
    found = autoscale_settings.of_deployment(read, row)
    setting = autoscale_settings.setting_of(found) if found is not None else None
    if setting is not None and setting.enabled:
        profile = profile_at(setting, now)
        return Bounds(profile.capacity.minimum, profile.capacity.maximum, profile)
    if spec.scale.kind == TARGET_UTILIZATION:
        return Bounds(spec.scale.minimum, spec.scale.maximum)
    return None


def wanted_of(spec: DeploymentSpec, status: DeploymentStatus, bounds: Bounds | None, *, proved: bool) -> int:
    """How many instances there are to be. What has never served (not `proved`) is tried out by at least one,
    also where it may sleep."""
    if bounds is None:
        return spec.instances
    scaled = spec.instances if status.scaled is None else status.scaled
    lowest = bounds.minimum if proved else max(1, bounds.minimum)
    return min(max(scaled, lowest), bounds.maximum)
