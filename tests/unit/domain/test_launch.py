"""Ranks of distributed jobs: who runs where, with which rendezvous variables, into which log."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.jobspec import CommandJob, Distribution
from tidemill.domain.launch import azureml_variables, log_names, ports_needed, ranks_of
from tidemill.domain.model import Scope


def job(kind: str = "none", nodes: int = 1, **distribution) -> CommandJob:
    return CommandJob("python train.py", node_count=nodes, distribution=Distribution(kind, **distribution))


def variables(rank) -> dict[str, str]:
    return dict(rank.variables)


def test_one_node_is_one_process_in_azures_log():
    (only,) = ranks_of(job(), "echo hi", "127.0.0.1", ())
    assert only.argv == ("/bin/bash", "-c", "echo hi")
    assert only.log == "user_logs/std_log.txt"
    assert ports_needed(job().distribution) == 0


def test_pytorch_ranks_meet_at_one_address():
    ranks = ranks_of(job("pytorch", 2, processes_per_node=2), "x", "127.0.0.1", (4000,))
    assert [(r.rank, r.node_index, r.local_rank) for r in ranks] == [
        (0, 0, 0),
        (1, 0, 1),
        (2, 1, 0),
        (3, 1, 1),
    ]
    last = variables(ranks[3])
    assert (last["RANK"], last["LOCAL_RANK"], last["NODE_RANK"], last["WORLD_SIZE"]) == ("3", "1", "1", "4")
    assert {(v["MASTER_ADDR"], v["MASTER_PORT"]) for v in map(variables, ranks)} == {("127.0.0.1", "4000")}
    assert len({r.log for r in ranks}) == 4


def test_tensorflow_workers_decide_and_parameter_servers_do_not():
    distribution = {"processes_per_node": 2, "workers": 3, "parameter_servers": 1}
    ranks = ranks_of(job("tensorflow", 2, **distribution), "x", "127.0.0.1", (1, 2, 3, 4))
    configs = [json.loads(variables(rank)["TF_CONFIG"]) for rank in ranks]
    assert configs[0]["cluster"] == {
        "worker": ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"],
        "ps": ["127.0.0.1:4"],
    }
    assert [c["task"] for c in configs][2:] == [{"type": "worker", "index": 2}, {"type": "ps", "index": 0}]
    assert [rank.primary for rank in ranks] == [True, True, True, False]
    assert ports_needed(Distribution("tensorflow", workers=3, parameter_servers=1)) == 4


def test_mpi_is_one_launcher_with_its_slots():
    (only,) = ranks_of(job("mpi", processes_per_node=3), "x", "h", (), "/usr/bin/mpirun")
    assert only.argv[0] == "/usr/bin/mpirun"
    assert only.argv[only.argv.index("-n") + 1] == "3"


def test_ray_runs_the_command_on_the_head_only():
    head, worker = ranks_of(job("ray", 2), "python go.py", "127.0.0.1", (6379,))
    assert "python go.py" in head.argv[2]
    assert "python go.py" not in worker.argv[2]
    assert "127.0.0.1:6379" in worker.argv[2]
    assert (head.primary, worker.primary) == (True, False)


@given(st.integers(1, 6), st.integers(1, 4))
def test_pytorch_ranks_are_whole_and_logs_are_their_own(nodes, per_node):
    many = job("pytorch", nodes, processes_per_node=per_node)
    ranks = ranks_of(many, "x", "h", (1,))
    assert [rank.rank for rank in ranks] == list(range(nodes * per_node))
    assert [rank.node_index for rank in ranks] == sorted(rank.node_index for rank in ranks)
    assert log_names(many) == tuple((rank.log, rank.node_index) for rank in ranks)
    assert len({rank.log for rank in ranks}) == len(ranks)


def test_what_azure_sets_for_a_job():
    scope = Scope("s", "g", "w")
    values = azureml_variables(
        "j", "d", "e", scope, 2, "https://localhost:1", "tok", "http://127.0.0.1:2/mlflow"
    )
    assert values["AZUREML_RUN_ID"] == values["MLFLOW_RUN_ID"] == "j"
    assert values["AZUREML_ARM_WORKSPACE_NAME"] == "w"
    assert values["MLFLOW_TRACKING_TOKEN"] == "tok"
