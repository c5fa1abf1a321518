"""A container group's page in a real browser: its log, its shell, stop and start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.browser

CODE = "import time; print('it runs', flush=True); time.sleep(1000)"


def tidemill(server: Any, *args: str) -> str:
    argv = [sys.executable, "-m", "tidemill.cli.main", "--home", str(server.home), *args]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def page(browser: Any, server: Any) -> Iterator[Any]:
    command = f'python3 -c "{CODE}"'
    given = ("--image", "host-python", "--command-line", command, "--cpu", "0.5", "--memory", "0.3")
    tidemill(server, "container", "create", "--name", "front", *given)
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(tidemill(server, "portal", "--no-browser").strip())
    page.click("nav >> text=Containers")
    page.click("#live >> text=front")
    yield page
    context.close()
    tidemill(server, "container", "delete", "--name", "front", "--yes")
    assert problems == []


def test_log_shell_stop_and_start(page: Any) -> None:
    page.wait_for_selector("section.log pre >> text=it runs")
    page.click("#shell >> text=Open")
    page.wait_for_selector("#shell input:enabled")
    page.fill("#shell input", "echo six times seven is $((6 * 7))")
    page.press("#shell input", "Enter")
    page.wait_for_selector("#shell-out >> text=six times seven is 42")
    page.fill("#shell input", "exit 3")
    page.press("#shell input", "Enter")
    page.wait_for_selector("#shell-out >> text=It ended with exit code 3.")
    page.click("button >> text=Stop")
    page.wait_for_selector("#live .badge >> text=Stopped")
    assert "It is being stopped." in page.inner_text("#done")
    page.click("button >> text=Start")
    page.wait_for_selector("#live .badge >> text=Running")
