"""`tidemill serve`: one command between a script and its first answer."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TIDEMILL = str(Path(sys.executable).with_name("tidemill"))
SCRIPT = """
import os
def init():
    global text
    text = open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "weights")).read()
def run(raw): return [text, os.environ["MINE"]]
"""


def test_a_script_with_its_model(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SCRIPT)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    words = [
        "serve",
        "score.py",
        "--model-dir",
        "model",
        "--port",
        "0",
        "--python",
        sys.executable,
        "--env",
        "MINE=a=b",
    ]
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen([TIDEMILL, *words], cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 60
        while "is ready" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        found = re.search(r"listening on 127.0.0.1:(\d+)", log.read_text())
        assert found
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=20)
        connection.request("POST", "/score", b"{}")
        assert json.loads(connection.getresponse().read()) == ["w", "a=b"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.py"], "There is no file or folder 'none.py'."),
        (["score.py", "--model-dir", "nowhere"], "--model-dir 'nowhere' is no folder."),
        (["score.py", "--env", "X"], "--env 'X' is not NAME=VALUE."),
        (["score.py", "--python", "/none/python"], "--python '/none/python' is no Python that starts."),
        (["score.py", "--workers", "0"], "'0' is not a whole number from 1 to 256."),
        (["model.pkl", "--model-dir", "."], "--model-dir is for a script"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "score.py").write_text(SCRIPT)
    (tmp_path / "model.pkl").write_bytes(b"")
    done = subprocess.run(
        [TIDEMILL, "serve", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert said in done.stderr


def test_a_script_that_fails_ends_the_command(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def init(): raise ValueError('no weights')\ndef run(x): pass\n")
    words = ["serve", "score.py", "--port", "0", "--python", sys.executable]
    done = subprocess.run([TIDEMILL, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "ValueError: no weights" in done.stderr
