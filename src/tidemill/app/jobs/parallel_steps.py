"""Parallel steps: how the body of their job is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tidemill.domain.errors import NotOffered
from tidemill.domain.jobspec import CommandJob, Distribution, read_command_job
from tidemill.domain.parallel import KEY, ParallelPlan, read_plan


def read(name: str, properties: Mapping[str, Any]) -> tuple[CommandJob, ParallelPlan | None]:
    """A command job, and of a parallel step the plan of its batches. Raises InvalidRequest."""
    job = read_command_job(name, properties)
    plan = read_plan(properties)
    if plan is None:
        return job, None
    return replace(
        job,
        distribution=Distribution("parallel"),
        # The batches are made of files that are there, whatever the mode says; as on Azure.
        inputs=tuple(replace(i, mode="ro_mount") if i.name == plan.input else i for i in job.inputs),
        # What finished batches wrote must outlive an attempt that fails.
        outputs=tuple(replace(o, mode="rw_mount") if o.mode == "upload" else o for o in job.outputs),
    ), plan


def refuse_alone(name: str, properties: Mapping[str, Any]) -> None:
    """A step's body that is submitted by itself would be run as a plain command. Raises NotOffered."""
    if properties.get(KEY):
        raise NotOffered(
            f"Job {name!r} was a parallel step: it runs as part of a pipeline alone, as on Azure. Submit the "
            "pipeline again.",
            f"properties.{KEY}",
        )
