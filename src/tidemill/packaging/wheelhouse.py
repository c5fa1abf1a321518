"""A package for a host with a Python of its own: wheels, model, code, scoring server, and a script that
installs them without any network and serves.

    run  README.md  requirements.txt     wheels/  models/NAME/VERSION/…  code/  server/
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable

from tidemill.packaging.assembling import Assembled, Order
from tidemill.packaging.wheels import repack, requirements

_RUN = """\
#!/bin/sh
# {title}: installs what it needs beside itself, once, and serves. See README.md.
set -eu
here=$(cd -- "$(dirname -- "$0")" && pwd)
python=${{PYTHON:-python{minor}}}
venv=${{VENV:-$here/.venv}}
if [ ! -e "$venv/installed" ]; then
    command -v "$python" >/dev/null || {{
        echo "There is no $python here: install Python {minor}, or name it by PYTHON=." >&2
        exit 2
    }}
    "$python" -c 'import sys; sys.version_info[:2] == ({tuple}) or sys.exit(
        "Its packages are for Python {minor}, not " + sys.version.split()[0] + ": name another by PYTHON=.")'
    "$python" -m venv {venv_options}"$venv"
    "$venv/bin/python" {pip} install --quiet --disable-pip-version-check \\
        --no-index --find-links "$here/wheels" --require-hashes -r "$here/requirements.txt"
    touch "$venv/installed"
fi
export AML_APP_ROOT="$here/code"
export AZUREML_SERVER_PORT="${{AZUREML_SERVER_PORT:-5001}}"
export TIDEMILL_SERVING_HOST="${{TIDEMILL_SERVING_HOST:-127.0.0.1}}"
cd "$here/code"
exec env -- {variables}"$venv/bin/python" "$here/server/main.py"
"""
_README = """\
# {title}

{description}. `./run` serves it at http://127.0.0.1:5001/score, after it has installed its packages
beside itself into `.venv`, from `wheels/` alone. It needs Python {minor} on Linux ({architecture}), a C
library as new as that of the host where it was made, and no network.

- `PYTHON=/path/to/python{minor}`: another interpreter. `VENV=DIR`: another place for what is installed.
- `AZUREML_SERVER_PORT`, `TIDEMILL_SERVING_HOST`: where it listens; `WORKER_COUNT`: processes.
"""


def make(order: Order, folder: str, say: Callable[[str], None]) -> Assembled:
    """Makes the folder. Raises Unsuitable, OSError."""
    wheels_folder = os.path.join(folder, "wheels")
    os.makedirs(wheels_folder)
    minor = ".".join(order.version.split(".")[:2])
    wheels = repack(order.environment, minor, wheels_folder)
    say(f"{len(wheels)} wheels.")
    sources = shutil.ignore_patterns("__pycache__")
    shutil.copytree(order.server, f"{folder}/server", ignore=sources)
    os.makedirs(f"{folder}/code")
    if order.code:
        shutil.copytree(order.code, f"{folder}/code", ignore=sources, dirs_exist_ok=True)
    model = _model(order, folder)
    pip = next((wheel.file for wheel in wheels if wheel.name.lower() == "pip"), "")
    title = order.annotations["org.opencontainers.image.title"]
    told = {
        "title": f"{title} {order.annotations['org.opencontainers.image.version']}",
        "description": order.annotations["org.opencontainers.image.description"],
        "minor": minor,
        "tuple": minor.replace(".", ", "),
        "architecture": order.architecture,
        "venv_options": "--without-pip " if pip else "",
        "pip": f'"$here/wheels/{pip}/pip"' if pip else "-m pip",
        "variables": _variables(order, model),
    }
    _write(f"{folder}/run", _RUN.format(**told), 0o755)
    _write(f"{folder}/README.md", _README.format(**told), 0o644)
    _write(f"{folder}/requirements.txt", requirements(wheels), 0o644)
    return Assembled("", _size(folder), {}, ())


def _model(order: Order, folder: str) -> str:
    """-> AZUREML_MODEL_DIR below the folder, "" for none."""
    if not order.model:
        return ""
    place = "models/" + order.model_folder.rpartition("azureml-models/")[2]
    target = f"{folder}/{place}/{order.model_name}".rstrip("/")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.isdir(order.model):
        shutil.copytree(order.model, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(order.model, target)
    return place


def _variables(order: Order, model: str) -> str:
    """For env(1): a name need not be one that the shell exports, and nothing in it is the shell's."""
    words = [shlex.quote(f"{name}={value}") for name, value in sorted(order.variables.items())]
    if order.script:
        words.append(f"AZUREML_ENTRY_SCRIPT={shlex.quote(order.script)}")
    if model:
        words.append(f'AZUREML_MODEL_DIR="$here"/{shlex.quote(model)}')
        if not order.script:
            path = f"{model}/{order.model_name}".rstrip("/")
            words.append(f'TIDEMILL_SERVING_MODEL="$here"/{shlex.quote(path)}')
    return "".join(f"{word} \\\n    " for word in words)


def _size(folder: str) -> int:
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)


def _write(path: str, text: str, mode: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)
