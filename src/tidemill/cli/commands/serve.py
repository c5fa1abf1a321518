"""`tidemill serve`: the scoring server on this machine, without a server of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import click

from tidemill.cli.errors import USAGE, CliError
from tidemill.cli.framework import Whole, command, pairs
from tidemill.cli.session import Session

EXAMPLES = """tidemill serve score.py
tidemill serve score.py --model-dir ./model --python .venv/bin/python
tidemill serve model.joblib --port 8000 --workers 2
tidemill serve ./mlflow-model"""


@command(None, "serve", EXAMPLES)
@click.argument("what", metavar="SCRIPT|MODEL", type=click.Path(path_type=Path))
@click.option("--model-dir", metavar="DIR", help="What AZUREML_MODEL_DIR is for the script.")
@click.option("--port", type=Whole(0, 65535), default=5001, help="Where it listens (default 5001; 0: any).")
@click.option("--host", default="127.0.0.1", help="Address it listens on (default 127.0.0.1).")
@click.option("--workers", type=Whole(1, 256), default=1, help="Processes that run the script (default 1).")
@click.option("--python", metavar="PATH", help="Python with the script's packages (default: the active one).")
@click.option("--env", "variables", metavar="NAME=VALUE", multiple=True, help="A variable for the script.")
def serve(
    session: Session,
    what: Path,
    model_dir: str | None,
    port: int,
    host: str,
    workers: int,
    python: str | None,
    variables: tuple[str, ...],
) -> None:
    """Serve an entry script (init() and run()) or a model here, as a deployment would, until ^C.

    A deployment runs the same server: what answers here answers there. Every variable of it can be set by
    --env: docs/serving.md has them.
    """
    environment = environment_of(what, model_dir, port, host, workers, variables, os.environ)
    found = python or active_python(os.environ)
    check(found)
    import tidemill.serving.scoring as package

    main = str(Path(package.__file__).with_name("main.py"))
    session.note(f"{what} by {found}; ^C ends it.")
    try:
        os.execvpe(found, [found, main], environment)
    except OSError as error:
        raise CliError(f"--python {found}: {error.strerror}.", USAGE) from None


def environment_of(
    what: Path,
    model_dir: str | None,
    port: int,
    host: str,
    workers: int,
    variables: tuple[str, ...],
    inherited: Mapping[str, str],
) -> dict[str, str]:
    """Raises CliError for what is not there or no variable."""
    if not what.exists():
        raise CliError(f"There is no file or folder {str(what)!r}.", USAGE)
    told = dict(inherited)
    for name in ("AZUREML_ENTRY_SCRIPT", "TIDEMILL_SERVING_MODEL", "TIDEMILL_SERVING_STATE"):
        told.pop(name, None)
    told |= {
        "AZUREML_SERVER_PORT": str(port),
        "TIDEMILL_SERVING_HOST": host,
        "WORKER_COUNT": str(workers),
    }
    if what.suffix == ".py":
        told["AML_APP_ROOT"] = str(what.resolve().parent)
        told["AZUREML_ENTRY_SCRIPT"] = what.name
    elif model_dir:
        raise CliError("--model-dir is for a script; a model is served by itself.", USAGE)
    else:
        told["TIDEMILL_SERVING_MODEL"] = str(what.resolve())
    if model_dir:
        if not Path(model_dir).is_dir():
            raise CliError(f"--model-dir {model_dir!r} is no folder.", USAGE)
        told["AZUREML_MODEL_DIR"] = str(Path(model_dir).resolve())
    return told | pairs("--env", variables)


def active_python(environment: Mapping[str, str]) -> str:
    """That of the active virtual or conda environment, else the first in the path. Raises CliError."""
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        candidate = Path(environment.get(name, "/nowhere")) / "bin" / "python"
        if candidate.exists():
            return str(candidate)
    found = shutil.which("python3", path=environment.get("PATH"))
    if found is None:
        raise CliError("There is no python3 in the path: name one by --python.", USAGE)
    return found


def check(python: str) -> None:
    """It must start and be 3.8 or later. Raises CliError."""
    asked = [python, "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
        major, minor = map(int, done.stdout.split())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        raise CliError(f"--python {python!r} is no Python that starts.", USAGE) from None
    if (major, minor) < (3, 8):
        raise CliError(f"{python} is Python {major}.{minor}; the scoring server needs 3.8 or later.", USAGE)
