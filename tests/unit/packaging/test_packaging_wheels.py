"""Installed packages become the wheels that they came from."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from tidemill.environments import overlay
from tidemill.environments.process import uv_program
from tidemill.packaging import wheelhouse
from tidemill.packaging.assembling import Order
from tidemill.packaging.pythons import Unsuitable
from tidemill.packaging.wheels import repack, requirements

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
FILES = {
    "tide/__init__.py": "VERSION = 1\n",
    "tide/data/höhe.txt": "12 m\n",
    "tide_1.2.data/scripts/tide-raw": "#!python\nprint('raw')\n",
    "tide_1.2.data/scripts/tide-shell": "#!/bin/sh\necho shell\n",
    "tide_1.2.data/data/share/tide/table.csv": "1,2\n",
    "tide-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: Tide\nVersion: 1.2\n\nText: not a header\n",
    "tide-1.2.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\n"
    "Tag: py2-none-any\nTag: py3-none-any\n",
    "tide-1.2.dist-info/entry_points.txt": "[console_scripts]\ntide = tide:main\n",
}


def wheel(folder: Path) -> Path:
    files = {name.replace("tide_1.2.data", "tide-1.2.data"): text.encode() for name, text in FILES.items()}
    rows = [(name, f"sha256={digest(data)}", str(len(data))) for name, data in files.items()]
    record = io.StringIO()
    csv.writer(record).writerows([*rows, ("tide-1.2.dist-info/RECORD", "", "")])
    path = folder / "tide-1.2-py2.py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr("tide-1.2.dist-info/RECORD", record.getvalue())
    return path


def digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the environments' builder makes one."""
    folder = tmp_path_factory.mktemp("environment")
    env = {**os.environ, "UV_CACHE_DIR": str(folder / "cache")}
    made = folder / "env"
    for words in (
        ["venv", "-q", "--relocatable", "--no-project", "--python", sys.executable, str(made)],
        [
            "pip",
            "install",
            "-q",
            "--offline",
            "--no-deps",
            "--python",
            f"{made}/bin/python",
            str(wheel(folder)),
        ],
    ):
        subprocess.run([uv_program(), *words], env=env, check=True, timeout=60)
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(made / "lib")], check=True, timeout=60)
    overlay.point_scripts(made / "bin")
    return made


def test_what_comes_out_is_what_went_in(environment: Path, tmp_path: Path) -> None:
    (found,) = repack(str(environment), MINOR, str(tmp_path))
    assert (found.name, found.version, found.file) == ("Tide", "1.2", "tide-1.2-py2.py3-none-any.whl")
    raw = (tmp_path / found.file).read_bytes()
    assert requirements([found]) == f"Tide==1.2 --hash=sha256:{hashlib.sha256(raw).hexdigest()}\n"
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        back = {name: archive.read(name) for name in archive.namelist()}
        script = archive.getinfo("tide-1.2.data/scripts/tide-shell").external_attr >> 16
    record = list(csv.reader(back.pop("tide-1.2.dist-info/RECORD").decode().splitlines()))
    assert back == {
        name.replace("tide_1.2.data", "tide-1.2.data"): text.encode() for name, text in FILES.items()
    }
    assert stat.S_IMODE(script) == 0o755
    told = {name: (hashed, size) for name, hashed, size in record}
    assert told.pop("tide-1.2.dist-info/RECORD") == ("", "")
    assert told == {name: (f"sha256={digest(data)}", str(len(data))) for name, data in back.items()}


def test_the_same_again_is_the_same_file(environment: Path, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(repack(str(environment), MINOR, str(tmp_path / name)))
    assert made[0] == made[1]


def test_a_large_file_is_never_whole_in_memory(environment: Path, tmp_path: Path) -> None:
    packages = environment / "lib" / f"python{MINOR}" / "site-packages"
    record = packages / "tide-1.2.dist-info" / "RECORD"
    before, large = record.read_text(), packages / "tide" / "large.so"
    with large.open("wb") as file:
        file.truncate(48 << 20)
    record.write_text(f"{before}tide/large.so,,\n")
    tracemalloc.start()
    try:
        (found,) = repack(str(environment), MINOR, str(tmp_path))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        record.write_text(before)
        large.unlink()
    with zipfile.ZipFile(tmp_path / found.file) as archive:
        assert archive.getinfo("tide/large.so").file_size == 48 << 20
    assert most < 16 << 20


def test_what_came_from_no_wheel_is_refused(environment: Path, tmp_path: Path) -> None:
    packages = environment / "lib" / f"python{MINOR}" / "site-packages"
    (packages / "old.egg-info").mkdir()
    try:
        with pytest.raises(Unsuitable, match="not installed from a wheel"):
            repack(str(environment), MINOR, str(tmp_path))
    finally:
        (packages / "old.egg-info").rmdir()
    (packages / "new-1.dist-info").mkdir()
    try:
        with pytest.raises(Unsuitable, match="new-1 in the environment has no METADATA"):
            repack(str(environment), MINOR, str(tmp_path))
    finally:
        (packages / "new-1.dist-info").rmdir()


def test_a_wheelhouse_sets_its_variables_and_runs_nothing_of_them(environment: Path, tmp_path: Path) -> None:
    server = tmp_path / "server"
    server.mkdir()
    (server / "main.py").write_text("import json, os; print(json.dumps(dict(os.environ)))\n")
    given = {"A-B": "it's $HOME", f"C;touch {tmp_path}/run;D": "1", "-i": "x", "E\nF": "2"}
    about = dict.fromkeys(("title", "version", "description"), "x")
    order = Order(
        "amd64",
        "x:1",
        str(server),
        environment=str(environment),
        version=f"{MINOR}.1",
        script="my score.py",
        variables=given,
        annotations={f"org.opencontainers.image.{name}": text for name, text in about.items()},
    )
    wheelhouse.make(order, str(tmp_path / "made"), lambda _: None)
    venv = tmp_path / "venv"  # as it is once everything is installed
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "installed").touch()
    known = {"PATH": os.environ["PATH"], "VENV": str(venv)}
    done = subprocess.run([tmp_path / "made" / "run"], env=known, capture_output=True, check=True, timeout=30)
    assert given.items() <= (told := json.loads(done.stdout)).items()
    assert told["AZUREML_ENTRY_SCRIPT"] == "my score.py"
    assert not (tmp_path / "run").exists()
