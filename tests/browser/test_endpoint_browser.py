"""The endpoint's page in a real browser: sliders, copies, the log that asks for itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

DEPLOYMENT = """\
name: one
endpoint_name: digits
model: {path: model.pkl}
code_configuration: {code: src, scoring_script: score.py}
environment: {conda_file: {dependencies: [python]}}
instance_type: Standard_DS1_v2
instance_count: 0
"""


def tidemill(server: Any, folder: Path, *args: str) -> str:
    argv = [sys.executable, "-m", "tidemill.cli.main", "--home", str(server.home), *args]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two deployments that sleep."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "src").mkdir()
    (folder / "src/score.py").write_text("def init(): pass\ndef run(data): return data\n")
    (folder / "model.pkl").write_text("x")
    (folder / "one.yml").write_text(DEPLOYMENT)
    tidemill(server, folder, "endpoint", "create", "-n", "digits")
    for name in ("one", "two"):
        tidemill(server, folder, "deployment", "create", "-f", "one.yml", "-n", name)
    return folder


@pytest.fixture
def page(browser: Any, server: Any, folder: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(tidemill(server, folder, "portal", "--no-browser").strip())
    page.click("nav >> text=Endpoints")
    page.click("#live >> text=digits")
    yield page
    context.close()
    assert problems == []


def test_traffic_is_shared_out_with_sliders(page: Any) -> None:
    one, two = (page.locator(f"input[name='traffic.{name}']") for name in ("one", "two"))
    one.fill("70")
    assert two.input_value() == "30"
    page.click("button:has-text('Share out')")
    page.wait_for_selector("#done:has-text('shared out anew')")
    page.wait_for_selector("#live:has-text('one 70 %')")
    page.fill("input[name='traffic.one']", "100")
    page.select_option("#mirror-to", "two")
    page.fill("#mirror-percent", "20")
    page.click("button:has-text('Share out')")
    page.wait_for_selector("#live:has-text('20 % copied to two')")
    page.wait_for_selector("section.log pre:has-text('Created by')")
