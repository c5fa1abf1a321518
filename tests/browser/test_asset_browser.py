"""The pages of models, data, environments and components in a real browser: all open without a complaint."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
CONDA = "dependencies: [python]\n"
COMPONENT = "type: command\nname: hello\nversion: '1'\ncommand: echo hi\nenvironment: azureml:plain:1\n"


@pytest.fixture(scope="module")
def link(server: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("files")

    def tidemill(*args: str) -> str:
        argv = [sys.executable, "-m", "tidemill.cli.main", "--home", str(server.home), *args]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=280, cwd=folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (folder / "mixed").mkdir()
    (folder / "mixed/dot.png").write_bytes(base64.b64decode(PNG))
    (folder / "mixed/cells.csv").write_text("name,value\n<b>bold</b>,1\n")
    (folder / "conda.yml").write_text(CONDA)
    (folder / "hello.yml").write_text(COMPONENT)
    tidemill("data", "create", "-n", "mixed", "--path", "mixed", "--type", "uri_folder")
    tidemill("model", "create", "-n", "digits", "--path", "mixed")
    tidemill("environment", "create", "-n", "plain", "--image", "python", "--conda-file", "conda.yml")
    tidemill("component", "create", "-f", "hello.yml")
    return tidemill("portal", "--no-browser").strip()


@pytest.fixture
def page(browser: Any, link: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(link)
    yield page
    context.close()
    assert problems == []


def test_every_page_opens(page: Any, tmp_path: Path) -> None:
    for section, name, mark in (
        ("Models", "digits", "#download"),
        ("Environments", "plain", "#state"),
        ("Components", "hello", "#yaml"),
        ("Data", "mixed", "#entries"),
    ):
        page.click(f"nav >> text={section}")
        page.click(f"#a-{name}")
        page.wait_for_selector(mark)
    page.click("#entries >> text=cells.csv")
    page.wait_for_selector("#rows td:has-text('<b>bold</b>')")
    page.click("#up")
    page.click("#entries >> text=dot.png")
    picture = page.locator("#picture")
    picture.wait_for()
    assert picture.evaluate("p => p.decode().then(() => p.naturalWidth)") == 1
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.click("nav >> text=Environments")
    page.click("[id^=c-] >> nth=0")
    page.wait_for_selector("#conda")
