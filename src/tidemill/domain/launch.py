"""From a job and its nodes to the processes of each rank: command lines and rendezvous variables.

Sources of the variables: PyTorch's environment:// rendezvous (MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE,
LOCAL_RANK; Azure adds NODE_RANK), TensorFlow's TF_CONFIG, Azure ML's documented AZUREML_* and MLflow's own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tidemill.domain.jobspec import CommandJob, Distribution
from tidemill.domain.model import Scope

# Where programs are found. Never the server's own PATH: it may begin with Tidemill's virtual environment.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PORTS_NEEDED = {"none": 0, "mpi": 0, "pytorch": 1, "ray": 1, "parallel": 1, "containers": 0}
BATCH_SPEC, BATCH_RUNTIME = "batch/spec.json", "batch/runtime"  # below the attempt's directory


@dataclass(frozen=True, slots=True)
class Rank:
    """One process tree. `primary` ranks decide how the attempt ended; then the others are stopped.
    `spared`: the others go on without it, also where its node is lost."""

    rank: int
    node_index: int
    local_rank: int
    argv: tuple[str, ...]
    variables: tuple[tuple[str, str], ...]
    log: str  # below the attempt's log folder
    primary: bool = True
    spared: bool = False


def ports_needed(distribution: Distribution) -> int:
    """How many free ports the ranks of a job need to find each other."""
    if distribution.kind == "tensorflow":
        return distribution.workers + distribution.parameter_servers
    if distribution.kind == "ray" and distribution.port:
        return 0
    return PORTS_NEEDED[distribution.kind]


def first_rank_on(job: CommandJob, node: int) -> int:
    """The rank that a visitor of this node of the job is led to."""
    ranks = ranks_of(job, "", "127.0.0.1", tuple(range(1, 1 + ports_needed(job.distribution))))
    return next(rank.rank for rank in ranks if rank.node_index == node)


def ranks_of(
    job: CommandJob, command: str, host: str, ports: tuple[int, ...], mpirun: str = "mpirun"
) -> tuple[Rank, ...]:
    """The ranks of one attempt. `command` has its expressions filled in; `host` is where every node is
    reached by the others; `ports` are free there (as many as `ports_needed`)."""
    kind = job.distribution.kind
    if kind == "pytorch":
        return _pytorch(job, command, host, ports[0])
    if kind == "tensorflow":
        return _tensorflow(job, command, host, ports)
    if kind == "parallel":
        return _parallel(job, host, ports[0])
    if kind == "containers":
        return _containers(job)
    if kind == "ray":
        return _ray(job, command, host, ports[0] if ports else job.distribution.port)
    if kind == "mpi":
        slots = str(job.distribution.processes_per_node)
        argv = (mpirun, "--allow-run-as-root", "--oversubscribe", "-n", slots, "/bin/bash", "-c", command)
        return (Rank(0, 0, 0, argv, (), "user_logs/std_log.txt"),)
    if job.node_count == 1:
        return (Rank(0, 0, 0, _bash(command), (), "user_logs/std_log.txt"),)
    return tuple(
        Rank(
            i,
            i,
            0,
            _bash(command),
            (("NODE_RANK", str(i)), ("AZUREML_NODE_COUNT", str(job.node_count))),
            _process_log(i, job.node_count),
        )
        for i in range(job.node_count)
    )


def _pytorch(job: CommandJob, command: str, host: str, port: int) -> tuple[Rank, ...]:
    per_node = job.distribution.processes_per_node
    world = per_node * job.node_count
    ranks: list[Rank] = []
    for rank in range(world):
        node, local = divmod(rank, per_node)
        variables = {
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
            "RANK": str(rank),
            "LOCAL_RANK": str(local),
            "NODE_RANK": str(node),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(per_node),
        }
        ranks.append(
            Rank(rank, node, local, _bash(command), tuple(variables.items()), _process_log(rank, world))
        )
    return tuple(ranks)


def _tensorflow(job: CommandJob, command: str, host: str, ports: tuple[int, ...]) -> tuple[Rank, ...]:
    workers, servers = job.distribution.workers, job.distribution.parameter_servers
    addresses = [f"{host}:{port}" for port in ports]
    cluster: dict[str, list[str]] = {"worker": addresses[:workers]}
    if servers:
        cluster["ps"] = addresses[workers:]
    ranks: list[Rank] = []
    for rank in range(workers + servers):
        role, index = ("worker", rank) if rank < workers else ("ps", rank - workers)
        config = json.dumps(
            {"cluster": cluster, "task": {"type": role, "index": index}, "environment": "cloud"}
        )
        node, local = divmod(rank, job.distribution.processes_per_node)
        variables = (
            ("TF_CONFIG", config),
            ("RANK", str(rank)),
            ("NODE_RANK", str(node)),
            ("LOCAL_RANK", str(local)),
        )
        log = f"user_logs/std_log_process_{index}{'_ps' if role == 'ps' else ''}.txt"
        if workers + servers == 1:
            log = "user_logs/std_log.txt"
        # A parameter server runs for ever: the workers decide.
        ranks.append(Rank(rank, node, local, _bash(command), variables, log, primary=role == "worker"))
    return tuple(ranks)


def _parallel(job: CommandJob, host: str, port: int) -> tuple[Rank, ...]:
    """Rank 0 hands out the batches, and its own node works on them like all others."""
    program = (
        f'exec "$(command -v python || command -v python3)" "$TIDEMILL_BATCH/{BATCH_RUNTIME}/main.py" '
        f'"$TIDEMILL_BATCH/{BATCH_SPEC}"'
    )
    return tuple(
        Rank(
            rank,
            rank,
            0,
            _bash(program),
            (
                ("TIDEMILL_BATCH_RANK", str(rank)),
                ("TIDEMILL_BATCH_ADDRESS", f"{host}:{port}"),
                ("AZUREML_NODE_COUNT", str(job.node_count)),
            ),
            _process_log(rank, job.node_count),
            primary=rank == 0,
            spared=rank > 0,
        )
        for rank in range(job.node_count)
    )


def _containers(job: CommandJob) -> tuple[Rank, ...]:
    """Side by side on one node; what they run is not said by a command. None ends the others."""
    count = job.distribution.processes_per_node
    return tuple(Rank(at, 0, at, (), (), _process_log(at, count), primary=False) for at in range(count))


def _ray(job: CommandJob, command: str, host: str, port: int) -> tuple[Rank, ...]:
    extra = job.distribution
    head = (
        f"ray start --head --node-ip-address={host} --port={port} "
        f"--include-dashboard=false --disable-usage-stats {extra.head_args} || exit $?\n"
        f"( {command}\n)\ncode=$?\nray stop --force >/dev/null 2>&1\nexit $code"
    )
    worker = (
        f"for i in $(seq 60); do ray status --address={host}:{port} >/dev/null 2>&1 && break; sleep 1; done\n"
        f"exec ray start --address={host}:{port} --block --disable-usage-stats {extra.worker_args}"
    )
    ranks = [
        Rank(
            0,
            0,
            0,
            _bash(head),
            (("RAY_ADDRESS", f"{host}:{port}"), ("NODE_RANK", "0")),
            _process_log(0, job.node_count),
        )
    ]
    for i in range(1, job.node_count):
        ranks.append(
            Rank(
                i,
                i,
                0,
                _bash(worker),
                (("NODE_RANK", str(i)),),
                _process_log(i, job.node_count),
                primary=False,
            )
        )
    return tuple(ranks)


def _bash(command: str) -> tuple[str, ...]:
    return ("/bin/bash", "-c", command)


def _process_log(rank: int, world: int) -> str:
    return "user_logs/std_log.txt" if world == 1 else f"user_logs/std_log_process_{rank}.txt"


def azureml_variables(
    job: str,
    display_name: str,
    experiment: str,
    scope: Scope,
    attempt: int,
    service: str,
    token: str,
    tracking: str,
) -> dict[str, str]:
    """What Azure ML sets for a job's processes. `service` is the ARM base address, `tracking` MLflow's."""
    return {
        "AZUREML_RUN_ID": job,
        "AZUREML_ROOT_RUN_ID": job,
        "AZUREML_RUN_DISPLAY_NAME": display_name,
        "AZUREML_RUN_ATTEMPT": str(attempt),
        "AZUREML_EXPERIMENT_NAME": experiment,
        "AZUREML_EXPERIMENT_SCOPE": f"{scope.arm_id}/experiments/{experiment}",
        "AZUREML_WORKSPACE_SCOPE": scope.arm_id,
        "AZUREML_ARM_SUBSCRIPTION": scope.subscription,
        "AZUREML_ARM_RESOURCEGROUP": scope.group,
        "AZUREML_ARM_WORKSPACE_NAME": scope.workspace,
        "AZUREML_ARM_PROJECT_NAME": experiment,
        "AZUREML_SERVICE_ENDPOINT": service,
        "AZUREML_DISCOVERY_SERVICE_ENDPOINT": f"{service}/discovery",
        "AZUREML_RUN_TOKEN": token,
        "MLFLOW_TRACKING_URI": tracking,
        "MLFLOW_TRACKING_TOKEN": token,
        "MLFLOW_RUN_ID": job,
        "MLFLOW_EXPERIMENT_NAME": experiment,
    }


def log_names(job: CommandJob) -> tuple[tuple[str, int], ...]:
    """(log path, node index) of every rank of a job, rank order."""
    ranks = ranks_of(job, "", "", (0,) * max(ports_needed(job.distribution), 1))
    return tuple((rank.log, rank.node_index) for rank in ranks)
