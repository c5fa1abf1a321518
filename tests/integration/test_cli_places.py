"""What a real server refuses of a job's file is told with the file's own line and column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jobserver import JobServer

JOB = """\
# a job
command: >-
  echo hello
environment: azureml:AzureML-sklearn-1.5@latest
inputs:
  lr: 0.1
  d:
    type: uri_folder
    path: azureml:d:1
outputs:
  o:
    name: taken
    version: 3
    type: uri_folder
resources:
  instance_count: 1
compute: azureml:cpu
"""
CONDA = """\
# The packages.

name: mine

dependencies:
  - python
  - numpy=
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    made = JobServer(tmp_path_factory.mktemp("places") / "home")
    made.start()
    made.cluster("cpu", high=2)
    uri = made.upload("d", {"f.txt": "1"})
    for name, version in (("d", "1"), ("taken", "3")):
        properties = {"dataUri": uri, "dataType": "uri_folder"}
        assert made.arm("PUT", f"data/{name}/versions/{version}", {"properties": properties})[0] in (200, 201)
    yield made
    made.end()


def refusal(server: JobServer, folder: Path, text: str, *more: str) -> str:
    (folder / "job.yml").write_text(text)
    answer = server.cli("job", "create", "-f", "job.yml", *more, cwd=folder)
    assert answer.returncode in (2, 3, 4), answer
    return answer.stderr.removeprefix("Error: ")


FREE = JOB.replace("    name: taken\n    version: 3\n", "")


DATA = "job.yml:9:11: "
STORES = "azureml://datastores"


@pytest.mark.parametrize(
    ("old", "new", "start", "word"),
    [
        ("azureml:cpu", "azureml:cpuu", "job.yml:15:10: Compute 'cpuu'", "Did you mean 'cpu'?"),
        ("AzureML-sklearn-1.5@latest", "np:99", "job.yml:4:14: Environment 'np'", "not found"),
        ("azureml:d:1", "azureml:nodata:1", f"{DATA}Data asset 'nodata'", "There are: d, taken."),
        ("azureml:d:1", f"{STORES}/nostore/paths/x", f"{DATA}Datastore 'nostore'", "not found"),
        ("azureml:d:1", "azureml://jobs/nojob/outputs/o", f"{DATA}Job 'nojob'", "not found"),
        ("azureml:d:1", f"{STORES}/workspaceblobstore/paths/no", f"{DATA}Input 'd'", "nothing is"),
        ("instance_count: 1", "instance_count: 9", "job.yml:14:19: ", "at most 2"),
    ],
)
def test_a_bad_reference(
    server: JobServer, tmp_path: Path, old: str, new: str, start: str, word: str
) -> None:
    said = refusal(server, tmp_path, FREE.replace(old, new))
    assert said.startswith(start), said
    assert word in said


def test_a_size_that_does_not_exist(server: JobServer, tmp_path: Path) -> None:
    text = FREE.replace("compute: azureml:cpu\n", "  instance_type: Standard_NOPE\n")
    said = refusal(server, tmp_path, text)
    assert said.startswith("job.yml:15:18: "), said
    assert "Standard_NOPE" in said


def test_an_asset_that_exists_and_tasks_that_do_not_fit(server: JobServer, tmp_path: Path) -> None:
    assert refusal(server, tmp_path, JOB).startswith("job.yml:11:3: Output 'o': Data asset taken:3 exists.")
    tensorflow = "distribution:\n  type: tensorflow\n  worker_count: 3\n"
    said = refusal(server, tmp_path, FREE.replace("count: 1", "count: 2") + tensorflow)
    assert said.startswith("job.yml:18:17: workerCount 3"), said
    said = refusal(server, tmp_path, FREE, "--set", "compute=azureml:cpuu")
    assert said.startswith("--set compute: Compute 'cpuu'"), said


def test_lines_of_a_conda_file_are_those_of_the_file(server: JobServer, tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "conda.yml").write_text(CONDA)
    own = "environment: {image: python, conda_file: env/conda.yml}"
    said = refusal(server, tmp_path, FREE.replace("environment: azureml:AzureML-sklearn-1.5@latest", own))
    assert said.startswith("env/conda.yml:7:5: "), said
    inside = "".join(f"    {line}\n" for line in CONDA.splitlines())
    inline = f"environment:\n  image: python\n  conda_file:\n{inside.rstrip()}"
    said = refusal(server, tmp_path, FREE.replace("environment: azureml:AzureML-sklearn-1.5@latest", inline))
    assert said.startswith("job.yml:13:9: "), said
