"""A job's own virtual environment over a built one that it shares with others and cannot write to.

Folders and links alone, so that it costs a job next to nothing: `python` and `pyvenv.cfg` are the built
one's, and a line in its site-packages adds the built one's packages behind its own. What a job installs with
pip goes into it and is found first; pip sees the shared packages as installed and leaves them as they are.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from tidemill.environments.built import META, BuiltEnvironment

VENV = ".venv"  # below the attempt's directory
PYTHON = "TIDEMILL_PYTHON"  # which Python the console scripts of the built one run
_PTH = "environment.pth"
_LONGEST_SCRIPT = 1 << 20
# The folder of the built one is where its pyvenv.cfg lies: it may have been moved with its home.
_ADD_PACKAGES = (
    "import os, site, sys; site.addsitedir(os.path.join(os.path.dirname(os.path.realpath(os.path.join("
    "sys.prefix, 'pyvenv.cfg'))), 'lib', 'python%d.%d' % sys.version_info[:2], 'site-packages'))\n"
)
# As uv writes it into the scripts of a relocatable environment.
_OWN_PYTHON = b"""'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python'"""
_JOBS_PYTHON = f"""'''exec' "${{{PYTHON}:-$(dirname -- "$(realpath -- "$0")")/python}}\"""".encode()


def write_link(meta: Path) -> None:
    """What an overlay's site-packages holds of the environment. Before code of any package has run there."""
    (meta / _PTH).write_text(_ADD_PACKAGES, "utf-8")


def point_scripts(folder: Path) -> None:
    """Console scripts run the Python that `PYTHON` names, if any, so that they, too, see what the job
    installed."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for script in folder.iterdir():
        if script.is_symlink() or not script.is_file() or not os.access(script, os.R_OK | os.W_OK):
            continue
        if script.stat().st_size > _LONGEST_SCRIPT:
            continue
        text = script.read_bytes()
        if _OWN_PYTHON in text:
            script.write_bytes(text.replace(_OWN_PYTHON, _JOBS_PYTHON, 1))


def layout(built: BuiltEnvironment) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """-> (folders, parents first; links as (path, target)), all below the attempt's directory."""
    match = re.match(r"\d+\.\d+", built.python_version)
    assert match is not None
    python = f"python{match[0]}"
    packages = f"{VENV}/lib/{python}/site-packages"
    folders = (VENV, f"{VENV}/bin", f"{VENV}/lib", f"{VENV}/lib/{python}", packages)
    links = (
        (f"{VENV}/pyvenv.cfg", f"{built.path}/pyvenv.cfg"),
        (f"{VENV}/lib64", "lib"),
        (f"{VENV}/bin/python", str(built.python)),
        (f"{VENV}/bin/python3", "python"),
        (f"{VENV}/bin/{python}", "python"),
        (f"{packages}/{_PTH}", f"{built.path}/{META}/{_PTH}"),
    )
    return folders, links


def variables(root: str) -> dict[str, str]:
    """What a job below `root` is told of its overlay, but for PATH."""
    own = f"{root}/{VENV}"
    return {"VIRTUAL_ENV": own, PYTHON: f"{own}/bin/python"}
