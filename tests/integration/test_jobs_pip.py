"""What a job finds on its PATH, and what it installs for itself with pip, over its shared environment."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobserver import JobServer

CONDA = "name: x\ndependencies:\n  - python\n  - pip\n  - pip:\n    - six==1.16.0\n"

pytestmark = pytest.mark.timeout(300)


def wheel(directory: Path, name: str, version: str, code: str) -> Path:
    info = f"{name}-{version}.dist-info"
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", code)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{name}-say = {name}:say\n")
        archive.writestr(
            f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    return path


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    server = JobServer(tmp_path_factory.mktemp("pip") / "home", cancel_grace_s=1.0, close_grace_s=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        )  # as with an activated venv
        server.start()
    properties = {"image": "python", "condaFile": CONDA}
    assert server.arm("PUT", "environments/six/versions/1", {"properties": properties})[0] in (200, 201)
    yield server
    server.end()


@pytest.fixture(scope="module")
def code(jobs: JobServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("wheels")
    wheel(folder, "tmtide", "1.0", "def say():\n    import six\n    print('high water', six.__version__)\n")
    wheel(folder, "six", "99.0", "__version__ = '99.0'\nsay = print\n")
    account = jobs.account()
    code = jobs.code("wheels", {"requirements.txt": "--no-index\n--find-links .\ntmtide\nsix\n"})
    with jobs.blobs() as store:
        for file in folder.iterdir():
            store.put_bytes(
                account, "azureml-blobstore", f"LocalUpload/wheels/{file.name}", file.read_bytes()
            )
    return code


def run(jobs: JobServer, name: str, command: str, code: str, **more: str) -> list[str]:
    environment = f"{jobs.workspace}/environments/six/versions/1"
    jobs.submit(name, command, **{"codeId": code, "environmentId": environment, **more})
    job = jobs.wait(name, 250)
    log = jobs.log(name)
    assert job["status"] == "Completed", log
    return log.splitlines()


def test_pip_install_then_import(jobs, code):
    """As Azure's examples do it. The hash table of the shell, console scripts of both and a subprocess of a
    console script all see what was installed; the next job does not."""
    said = run(
        jobs,
        "installs",
        "python -c 'import six; print(six.__version__)' && "
        "pip install -q -r requirements.txt && python -c 'import tmtide; tmtide.say()' && tmtide-say && "
        "python -m pip list --format freeze && "
        "python -m pip install -q --no-index --find-links . six==99.0 && "
        "python3 -c 'import six; print(six.__version__)' && command -v pip python tmtide-say",
        code,
    )
    assert said[0] == "1.16.0"
    # six==1.16.0 of the environment satisfies the list.
    assert said[1:3] == ["high water 1.16.0"] * 2
    rest = "\n".join(said[3:])
    assert "tmtide==1.0" in rest
    assert "six==1.16.0" in rest
    assert "pip==" in rest
    assert said[-4] == "99.0"
    root = jobs.home / "nodes"
    assert said[-2].startswith(str(root))
    assert said[-2].endswith("/.venv/bin/python")
    assert said[-1].endswith("/.venv/bin/tmtide-say")
    after = run(jobs, "next", "python -c 'import importlib.util as u; print(u.find_spec(\"tmtide\"))'", code)
    assert after == ["None"]


def test_the_servers_own_environment_is_out_of_reach(jobs, code):
    own = str(Path(sys.executable).parent)
    said = run(jobs, "path", 'echo "$PATH"; which -a pip python tidemill; echo "$VIRTUAL_ENV"', code)
    assert not [line for line in said if own in line]
    plain = run(jobs, "plain", 'echo "$PATH"; which -a pip tidemill || true', code, environmentId="")
    assert not [line for line in plain if own in line]


def test_a_job_is_somebody(jobs, code):
    said = run(jobs, "name", "python -c 'import getpass; print(getpass.getuser())'; id -un || true", code)
    name = "job" if os.geteuid() == 0 else subprocess.check_output(["id", "-un"], text=True).strip()
    assert said[0] in (name, "job")
