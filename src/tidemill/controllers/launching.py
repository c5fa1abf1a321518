"""From an attempt to the tasks of its ranks: command, environment variables, where each runs and logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tidemill.app.assets import scoring_side
from tidemill.app.assets.surroundings import View, view_of
from tidemill.app.people import secretstore
from tidemill.app.services import Services
from tidemill.controllers import containers, parallel, serving
from tidemill.controllers.live_attempt import PlacedRank
from tidemill.controllers.staging import NodeFiles, Staged
from tidemill.domain.expressions import render_command
from tidemill.domain.jobspec import CommandJob
from tidemill.domain.launch import Rank, azureml_variables, ports_needed, ranks_of
from tidemill.domain.model import Attempt, Resource
from tidemill.domain.plan import JobPlan
from tidemill.domain.secretrefs import SecretRef, filled
from tidemill.domain.serving.service import PlannedService
from tidemill.engines.base import TaskSpec
from tidemill.identity.tokens import ML_AUDIENCE

# A job's token lives as long as a job may reasonably run, or as its own limit says, and some time to end in;
# the control process refuses it once the job has ended.
TOKEN_TTL_S = 7 * 24 * 3600
TOKEN_MARGIN_S = 3600
SERVICE_TOKEN_TTL_S = 365 * 24 * 3600  # an instance of a deployment runs for as long as it is wanted

# Where the nodes of one job reach each other: they share this host.
HOST = "127.0.0.1"


def outline(plan: JobPlan) -> dict[int, PlacedRank]:
    """The ranks of an attempt that is followed to its end, and not started."""
    ports = tuple(range(1, 1 + ports_needed(plan.job.distribution)))
    ranks = ranks_of(plan.job, "", HOST, ports)
    found = {r.rank: PlacedRank(r.rank, r.node_index, r.primary, r.log, spared=r.spared) for r in ranks}
    if plan.group is None:
        return found
    # Init containers go one after the other, then all others; one that fails ends the run.
    init = len(plan.group.spec.init)
    return {
        rank: replace(one, primary=rank < init, after=tuple(range(min(rank, init))))
        for rank, one in found.items()
    }


async def prepare(
    s: Services, row: Resource, plan: JobPlan, attempt: Attempt, staged: Staged
) -> list[PlacedRank]:
    """What is to be started on each node, with the secrets that it is given. Raises InvalidRequest, Conflict,
    Forbidden."""
    if plan.group is None:
        return place(s, row, plan, attempt, staged, await secretstore.for_job(s, row, plan))
    tasks = await containers.tasks(s, plan, plan.group, attempt, staged.nodes[0])
    planned = outline(plan)
    return [replace(planned[task.rank], task=task) for task in tasks]


def place(
    s: Services,
    row: Resource,
    plan: JobPlan,
    attempt: Attempt,
    staged: Staged,
    secrets: Mapping[SecretRef, str],
) -> list[PlacedRank]:
    """`secrets`: the values of those that its variables name. Raises InvalidRequest when the command cannot
    be made (an environment without ray, no mpirun)."""
    job = plan.job
    view = view_of(s, plan)
    shared = shared_variables(s, row, plan, attempt)
    chosen = filled(job.environment_variables, secrets)
    if plan.service is not None:
        return [_instance(s, plan.service, plan, attempt, staged, view, shared, chosen)]
    placed: list[PlacedRank] = []
    for index, files in enumerate(staged.nodes):
        command = render_command(job.command, files.inputs, files.outputs)
        own = {**view.told(files.root), **shared, **_file_variables(files)}
        if plan.parallel is not None:
            own |= parallel.variables(s, row, plan, plan.parallel, files.root, files.outputs)
        for rank in ranks_of(job, command, HOST, staged.ports, view.mpirun):
            if rank.node_index == index:
                variables = {**own, **dict(rank.variables), **chosen}
                placed.append(_placed(s, job, attempt, rank, files, variables, view))
    return sorted(placed, key=lambda p: p.rank)


def _placed(
    s: Services,
    job: CommandJob,
    attempt: Attempt,
    rank: Rank,
    files: NodeFiles,
    variables: dict[str, str],
    view: View,
) -> PlacedRank:
    task = TaskSpec(
        attempt_id=attempt.id,
        epoch=attempt.epoch,
        rank=rank.rank,
        argv=view.argv(rank.argv),
        env=variables,
        cwd=f"{files.root}/code",
        log_path=f"{files.root}/{rank.log}",
        term_grace_s=s.settings.cancel_grace_s,
        timeout_s=float(job.timeout_s) if job.timeout_s else None,
        gpu_ids=attempt.gpu_ids[rank.node_index] if attempt.gpu_ids else (),
        rootfs=view.rootfs,
        network_of=attempt.nodes[0] if rank.node_index else "",
        read_only=(*view.read_only, *_mounted(job, files)),
    )
    return PlacedRank(rank.rank, rank.node_index, rank.primary, rank.log, task, rank.spared)


def _instance(
    s: Services,
    service: PlannedService,
    plan: JobPlan,
    attempt: Attempt,
    staged: Staged,
    view: View,
    shared: Mapping[str, str],
    chosen: Mapping[str, str],
) -> PlacedRank:
    """The one rank of an instance of a deployment. It is no run: what it logs belongs to none."""
    (rank,), (files,), (port,) = ranks_of(plan.job, "", HOST, ()), staged.nodes, staged.ports
    own = {name: value for name, value in shared.items() if name != "MLFLOW_RUN_ID"}
    told = serving.variables(service, files.root, port)
    side = None if service.container is not None else scoring_side.folder_of(s, plan.environment)
    if side is not None:
        told["TIDEMILL_SERVING_SIDE"] = str(side)
    task = TaskSpec(
        attempt_id=attempt.id,
        epoch=attempt.epoch,
        rank=rank.rank,
        argv=serving.argv(view, service, files.root),
        env={**view.told(files.root), **own, **_file_variables(files), **told, **chosen},
        cwd=f"{files.root}/code",
        log_path=f"{files.root}/{rank.log}",
        term_grace_s=service.drain_s,
        gpu_ids=attempt.gpu_ids[rank.node_index] if attempt.gpu_ids else (),
        rootfs=view.rootfs,
        read_only=(*view.read_only, *([str(side)] if side is not None else [])),
        service=serving.service_of(service, port),
        shown_at=serving.shown_at(service, files.root),
        chdir=(view.working_dir or "/") if service.container is not None else "",
    )
    return PlacedRank(rank.rank, rank.node_index, rank.primary, rank.log, task)


def _file_variables(files: NodeFiles) -> dict[str, str]:
    variables = {"HOME": files.root, "TMPDIR": files.root}
    variables.update({f"AZURE_ML_INPUT_{name}": value for name, value in files.inputs.items()})
    variables.update({f"AZURE_ML_OUTPUT_{name}": value for name, value in files.outputs.items()})
    return variables


def _mounted(job: CommandJob, files: NodeFiles) -> tuple[str, ...]:
    """Inputs that are mounted read-only: their folder, below the attempt's directory."""
    names = [item.name for item in job.inputs if item.mode == "ro_mount" and item.type != "literal"]
    return tuple(f"{files.root}/inputs/{name}" for name in names)


def _token_life_s(plan: JobPlan) -> float:
    if plan.service is not None:
        return SERVICE_TOKEN_TTL_S
    return min(TOKEN_TTL_S, (plan.job.timeout_s or TOKEN_TTL_S) + TOKEN_MARGIN_S)


def shared_variables(s: Services, row: Resource, plan: JobPlan, attempt: Attempt) -> dict[str, str]:
    """The same for every rank."""
    scope = row.key.scope
    token = s.tokens.issue_job(
        uid=row.uid,
        name=row.key.name,
        audience=ML_AUDIENCE,  # no address: the server may have others while the job runs
        ttl_s=_token_life_s(plan),
        scope=scope,
        acts_as=plan.acts_as,
    )
    return {
        # Print statements reach the log as they happen, not when a buffer is full.
        "PYTHONUNBUFFERED": "1",
        "REQUESTS_CA_BUNDLE": str(s.settings.ca_bundle),
        "SSL_CERT_FILE": str(s.settings.ca_bundle),
        # Microsoft's clients find this server by them, also inside a job.
        "ARM_CLOUD_METADATA_URL": f"{s.addresses.https}/metadata/endpoints?api-version=2019-05-01",
        "AZUREML_CURRENT_CLOUD": "LocalAML",
        **dict(plan.environment.variables),
        **azureml_variables(
            row.key.name,
            plan.job.display_name,
            plan.job.experiment,
            scope,
            attempt.number,
            s.addresses.https,
            token,
            f"{s.addresses.http}/mlflow/v2.0{scope.arm_id}",
        ),
    }
