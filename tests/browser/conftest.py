"""Debian's chromium through Playwright, talking to this machine only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if chromium is None or sync_playwright is None:
        missing = "needs Debian's chromium and the Python package playwright"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        # Chromium looks for news of its own otherwise: tests talk to this machine only.
        quiet = (
            "background-networking",
            "component-update",
            "sync",
            "quic",
            "default-apps",
            "domain-reliability",
        )
        arguments = [
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
        ]
        arguments += [f"--disable-{name}" for name in quiet]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments, timeout=120_000)
        yield browser
        browser.close()
