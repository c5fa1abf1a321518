"""From an attempt to the tasks of its ranks: command, environment variables, where each runs and logs."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tidemill.app.services import Services
from tidemill.controllers.staging import Staged
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.expressions import render_command
from tidemill.domain.launch import azureml_variables, ranks_of
from tidemill.domain.model import Attempt, Resource
from tidemill.domain.plan import JobPlan
from tidemill.engines.base import TaskSpec

# A job's token lives as long as a job may reasonably run; it is dead in practice when the job is (its
# run is checked on use).
TOKEN_TTL_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class PlacedRank:
    rank: int
    node_index: int
    primary: bool
    log: str  # "user_logs/std_log.txt"
    task: TaskSpec


def place(s: Services, row: Resource, plan: JobPlan, attempt: Attempt, staged: Staged, ports: tuple[int, ...]) -> list[PlacedRank]:
    """Raises InvalidRequest when the command cannot be made (an environment without ray, no mpirun)."""
    job = plan.job
    bin_dir = environment_bin(s, plan)
    _check_launcher(job.distribution.kind, bin_dir)
    command = render_command(job.command, staged.inputs, staged.outputs)
    shared = shared_variables(s, row, plan, attempt, staged, bin_dir)
    placed: list[PlacedRank] = []
    for rank in ranks_of(job, command, "127.0.0.1", ports, shutil.which("mpirun") or "mpirun"):
        variables = {**shared, **dict(rank.variables), **dict(job.environment_variables)}
        task = TaskSpec(
            attempt_id=attempt.id,
            epoch=attempt.epoch,
            rank=rank.rank,
            argv=rank.argv,
            env=variables,
            cwd=str(staged.roots[rank.node_index] / "code"),
            log_path=str(staged.roots[rank.node_index] / "logs" / rank.log),
            term_grace_s=s.settings.cancel_grace_s,
            timeout_s=float(job.timeout_s) if job.timeout_s else None,
            gpu_ids=attempt.gpu_ids[rank.node_index] if attempt.gpu_ids else (),
        )
        placed.append(PlacedRank(rank.rank, rank.node_index, rank.primary, rank.log, task))
    return placed


def environment_bin(s: Services, plan: JobPlan) -> Path:
    """Where `python` of the job's environment is. The host's own, without one."""
    if plan.environment.digest:
        built = s.environments.find(plan.environment.digest)
        if built is None:
            raise InvalidRequest(
                f"Environment {plan.environment.label} is not built any more. Submit the job again.",
                "EnvironmentMissing",
            )
        return Path(built.bin_dir)
    return Path(sys.base_prefix) / "bin"


def shared_variables(
    s: Services, row: Resource, plan: JobPlan, attempt: Attempt, staged: Staged, bin_dir: Path
) -> dict[str, str]:
    scope, root = row.key.scope, staged.roots[0]
    token = s.tokens.issue(
        oid=row.uid, name=row.key.name, kind="job", audience=s.addresses.https, ttl_s=TOKEN_TTL_S, scope=scope,
        job=row.key.name,
    )
    variables = {
        "PATH": f"{bin_dir}:{os.environ.get('PATH', '/usr/local/bin:/usr/bin:/bin')}",
        "HOME": str(root),
        "TMPDIR": str(root / "tmp"),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        # Print statements reach the log as they happen, not when a buffer is full.
        "PYTHONUNBUFFERED": "1",
        "REQUESTS_CA_BUNDLE": str(s.settings.home / "public" / "ca-bundle.pem"),
        "SSL_CERT_FILE": str(s.settings.home / "public" / "ca-bundle.pem"),
        **dict(plan.environment.variables),
        **azureml_variables(
            row.key.name, plan.job.display_name, plan.job.experiment, scope, attempt.number, s.addresses.https,
            token, f"{s.addresses.http}/mlflow/v2.0{scope.arm_id}",
        ),
    }
    if plan.environment.digest:
        variables["VIRTUAL_ENV"] = str(bin_dir.parent)
    for name, value in staged.inputs.items():
        variables[f"AZURE_ML_INPUT_{name}"] = value
    for name, value in staged.outputs.items():
        variables[f"AZURE_ML_OUTPUT_{name}"] = value
    return variables


def _check_launcher(kind: str, bin_dir: Path) -> None:
    if kind == "mpi" and shutil.which("mpirun") is None:
        raise InvalidRequest(
            "The job's distribution is mpi, but this host has no mpirun. Install an MPI (Debian: openmpi-bin) "
            "or use the pytorch distribution.",
            "MpiMissing",
        )
    if kind == "ray" and not (bin_dir / "ray").exists():
        raise InvalidRequest(
            "The job's distribution is ray, but its environment has no ray. Add 'ray[default]' to its pip list.",
            "RayMissing",
        )
