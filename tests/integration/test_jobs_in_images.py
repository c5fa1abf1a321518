"""Jobs whose root file system is an image: what they see, what comes back, what is said on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from imagemaker import PASSWORD, PYTHON_ENV, USER, Layer, Layout, busybox, need, push, registry, with_python
from jobserver import JobServer
from wheelmaker import wheel

pytestmark = pytest.mark.timeout(300)
MODEL = "azureml://datastores/workspaceblobstore/paths/out/model"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    made = Layout(tmp_path_factory.mktemp("layouts") / "images")
    release = Layer().file("etc/os-release", "ID=tiny\nPRETTY_NAME=Tiny\n").file("srv/data", "of the image")
    settings = {
        "Env": ["PATH=/bin", "WHO=image"],
        "Entrypoint": ["/bin/false"],
        "User": "www",
        "WorkingDir": "/srv",
    }
    made.add([busybox(), release], "tiny", settings)
    made.add([with_python(), release], "python", {"Env": PYTHON_ENV})
    made.add([Layer().file("only", "a file")], "shellless")
    return made


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Iterator[JobServer]:
    need("bwrap", "skopeo")
    home = tmp_path_factory.mktemp("images-home")
    wheels = tmp_path_factory.mktemp("wheels")
    wheels.chmod(0o755)  # builds in images read it as a user of their own
    wheel(wheels, "tmtide", "1.0", code="height = 'high water'\n")
    (wheels / "uv.toml").write_text(f'no-index = true\nfind-links = ["{wheels}"]\n')
    server = JobServer(home, images="use", image_folders=[str(layout.path)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_CONFIG_FILE", str(wheels / "uv.toml"))
        server.start()
    try:
        yield server
    finally:
        server.end()


def environment(jobs: JobServer, name: str, **properties: Any) -> str:
    status, answer = jobs.arm("PUT", f"environments/{name}/versions/1", {"properties": properties})
    assert status in (200, 201), answer
    return f"azureml:{name}:1"


def messages(job: dict[str, Any]) -> str:
    return "\n".join(entry["message"] for entry in job["timeline"])


def run(
    jobs: JobServer, name: str, command: str, env: str, seconds: float = 120, **more: Any
) -> dict[str, Any]:
    jobs.submit(name, command, environmentId=env, **more)
    return jobs.wait(name, seconds)


def done(jobs: JobServer, name: str, *arguments: Any, **more: Any) -> tuple[dict[str, Any], str]:
    job = run(jobs, name, *arguments, **more)
    assert job["status"] == "Completed", (job["error"], messages(job))
    return job, jobs.log(name)


def test_a_job_lives_among_the_images_files(jobs: JobServer, layout: Layout, tmp_path: Path):
    secret = tmp_path / "of-the-host"
    secret.write_text("x")
    env = environment(jobs, "tiny", image=f"oci:{layout.path}:tiny")
    command = "; ".join(
        [
            "cat /etc/os-release /srv/data",
            "ls /",
            f"ls {secret} 2>&1",
            "ls /usr/bin/python3 /root/.ssh 2>&1",
            "echo WHO=$WHO USER=$USER",
            "pwd",
            "cat data/word",
            "echo result > ${{outputs.model}}/result",
            "echo kept > outputs/kept",
            "echo x 2>/dev/null > /srv/written || echo read-only",
            "id -u",
        ]
    )
    code = jobs.code("tiny-code", {"data/word": "code is here\n"})
    outputs = {"model": {"jobOutputType": "uri_folder", "uri": MODEL}}
    job, log = done(jobs, "tiny-1", command, env, codeId=code, outputs=outputs)
    assert "ID=tiny" in log
    assert "of the image" in log
    assert "WHO=image USER=job" in log
    assert "code is here" in log
    assert "read-only" in log
    assert f"ls: {secret}: No such file" in log
    assert "ls: /usr/bin/python3: No such file" in log
    assert "/code" in log, "its working directory is its own, not the image's"
    assert jobs.stored("out/model/") == {"result": b"result\n"}
    assert "Image oci:" in messages(job)
    assert "2 layers of" in messages(job)
    assert "Unpacking: layer 2 of 2" in jobs.log("tiny-1", "azureml-logs/20_image_build_log.txt")
    again, _ = done(jobs, "tiny-2", "echo again", env)
    assert "Image oci:" in messages(again)
    assert "layers of" not in messages(again)


def test_python_of_the_image_reaches_mlflow(jobs: JobServer, layout: Layout):
    env = environment(jobs, "python", image=f"oci:{layout.path}:python")
    code = (
        "import json,os,sys,urllib.request as u;"
        "r=u.Request(os.environ['MLFLOW_TRACKING_URI']+'/api/2.0/mlflow/runs/get?run_id='+os.environ['MLFLOW_RUN_ID'],"
        "headers={'Authorization':'Bearer '+os.environ['MLFLOW_TRACKING_TOKEN']});"
        "print(sys.prefix, json.load(u.urlopen(r))['run']['info']['run_id'])"
    )
    _, log = done(jobs, "python-1", f'python -c "{code}"', env)
    assert log.split() == ["/opt/python", "python-1"]


def test_from_a_registry_with_a_connection(jobs: JobServer, layout: Layout, tmp_path: Path):
    with registry(tmp_path / "vault", login=True) as address:
        push(layout, "tiny", f"{address}/team/tiny:1", login=True)
        env = environment(jobs, "private", image=f"{address}/team/tiny:1")
        refused = run(jobs, "private-1", "true", env)
        assert refused["status"] == "Failed"
        assert "no connection to it" in refused["error"]["message"]
        credentials = {"username": USER, "password": PASSWORD}
        properties = {
            "category": "ContainerRegistry",
            "target": address,
            "authType": "UsernamePassword",
            "credentials": credentials,
        }
        status, answer = jobs.arm("PUT", "connections/vault", {"properties": properties})
        assert status in (200, 201), answer
        for index in range(3):
            jobs.submit(f"private-many-{index}", "cat /etc/os-release", environmentId=env)
        for index in range(3):
            job = jobs.wait(f"private-many-{index}", 120)
            assert job["status"] == "Completed", job["error"]
            assert "ID=tiny" in jobs.log(job["name"])
        missing = run(jobs, "private-2", "true", environment(jobs, "typo", image=f"{address}/team/tiny:2"))
        assert "Its tags: 1." in missing["error"]["message"]
        assert PASSWORD not in json.dumps([job, missing, jobs.native("jobs/private-1")])
    logs = b"".join(path.read_bytes() for path in (jobs.home / "envs" / "logs").glob("*.log"))
    assert PASSWORD.encode() not in logs + (jobs.home / "logs" / "control.log").read_bytes()


def test_what_is_refused_at_submit(jobs: JobServer, layout: Layout):
    for image, words in (
        ("Bad Image", "cannot be read"),
        ("oci:/etc:x", "not in a folder from which the owner of this server allows images"),
    ):
        name = "refused-" + image.split()[0].lower().replace(":", "-").replace("/", "-")
        env = environment(jobs, name, image=image)
        status, answer = jobs.put_job("refused", "true", environmentId=env)
        assert status == 400, answer
        assert words in answer["error"]["message"]


def test_an_image_without_a_shell(jobs: JobServer, layout: Layout):
    env = environment(jobs, "shellless", image=f"oci:{layout.path}:shellless")
    job = run(jobs, "shellless-1", "true", env)
    assert "has no shell (bash or sh)" in job["error"]["message"]


def test_bases_of_azure_ml_with_a_conda_file_are_the_hosts(jobs: JobServer):
    conda = "dependencies:\n- python\n"
    base = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04"
    env = environment(jobs, "base", image=base, condaFile=conda)
    job, log = done(jobs, "base-1", "ls -d /usr/bin/env", env)
    assert log.strip() == "/usr/bin/env"
    assert "the host stands in for base images of Azure ML" in messages(job)


def test_packages_are_built_inside_the_image(jobs: JobServer, layout: Layout):
    conda = "dependencies:\n- python\n- pip:\n  - tmtide\n"
    env = environment(jobs, "inside", image=f"oci:{layout.path}:python", condaFile=conda)
    code = "import sys, tmtide; print(sys.prefix, sys.base_prefix, tmtide.__file__, tmtide.height)"
    job, log = done(jobs, "inside-1", f"python -c '{code}'", env)
    prefix, base, place, *said = log.split()
    assert prefix.endswith("/.venv")
    assert base == "/opt/python"
    assert place.startswith(str(jobs.home / "envs"))
    assert said == ["high", "water"]
    assert "Image oci:" in messages(job)
    musl = environment(jobs, "no-libc", image=f"oci:{layout.path}:tiny", condaFile=conda)
    refused = run(jobs, "no-libc-1", "true", musl)
    assert "a conda file needs an image with glibc" in refused["error"]["message"]


def test_what_a_job_tells_the_loader_is_not_told_to_the_sandbox(jobs: JobServer):
    """LD_PRELOAD and its kin would run a job's code in bubblewrap's own process, outside."""
    command = (
        "sleep 0.1; grep -l 'initialize program: .*bwrap' seen.* || echo inside only; ls seen.* | head -n 1"
    )
    variables = {"LD_DEBUG": "files", "LD_DEBUG_OUTPUT": "seen"}
    job = run(jobs, "loader-1", command, "", environmentVariables=variables)
    assert job["status"] == "Completed", job["error"]
    first, second = jobs.log("loader-1").split("\n")[:2]
    assert first == "inside only"
    assert second.startswith("seen."), "inside they have their effect"
