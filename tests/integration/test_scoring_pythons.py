"""The scoring server on other Pythons than ours: whatever is installed from 3.8 on, without a package."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from scoringserver import scoring

SCRIPT = """
import json, sys
from azureml.contrib.services.aml_request import rawhttp
from azureml.contrib.services.aml_response import AMLResponse

def init(): pass

@rawhttp
def run(request):
    kind = request.args.get("kind")
    if kind == "fail":
        raise ValueError("words")
    if kind == "stream":
        return (part for part in ("a", "b"))
    return AMLResponse({"v": list(sys.version_info[:2]), "got": request.get_json()}, 200, json_str=True)
"""
ASYNC = (
    "import asyncio\ndef init(): pass\nasync def run(x):\n    await asyncio.sleep(0.01)\n    return len(x)\n"
)
VERSIONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


def python_of(version: str) -> str:
    """One that starts; skips without."""
    candidates = [shutil.which(f"python{version}")]
    candidates += sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python")))
    for found in filter(None, candidates):
        done = subprocess.run(
            [found, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True
        )
        if done.stdout.decode().strip() == version:
            return found
    pytest.skip(f"there is no Python {version} on this machine")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_script_is_served(version: str, tmp_path: Path) -> None:
    with scoring(tmp_path, SCRIPT, python=python_of(version), TIDEMILL_SERVING_GRACE_S="5") as server:
        reply = server.score({"a": 1})
        assert reply.json == {"v": [int(n) for n in version.split(".")], "got": {"a": 1}}
        assert server.ask("POST", "/score?kind=fail", {}).status == 500
        assert "ValueError: words" in server.log
        assert server.ask("POST", "/score?kind=stream", {}).body == b"ab"
        assert server.ask("GET", "/swagger.json").json["swagger"] == "2.0"
        assert server.score(b"x" * 1_000_000, headers={"Content-Type": "text/plain"}).status == 500
        assert server.end() == 0


@pytest.mark.parametrize("version", ["3.8", "3.13"])
def test_an_async_script_is_served(version: str, tmp_path: Path) -> None:
    with scoring(tmp_path, ASYNC, python=python_of(version)) as server:
        assert server.score(b"12345").json == 5
        assert server.end() == 0
