"""Signing in with a real browser: its own rules on forms, origins, cookies and redirects hold, too."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import urlopen

import pytest

pytestmark = pytest.mark.browser
PASSWORD = "correct horse battery"
VERIFIER = "v" * 60


@pytest.fixture(scope="module")
def user(server: Any) -> str:
    for words, stdin in (
        (("create-user", "ann"), ""),
        (("grant", "ann", "Reader", "--scope", "subscription"), ""),
        (("set-password", "ann", "--password-stdin"), PASSWORD + "\n"),
    ):
        argv = [sys.executable, "-m", "tidemill.cli.main", "--home", str(server.home), "access", *words]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
    return "ann"


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 400, "height": 800})
    page = context.new_page()
    page.set_default_timeout(60_000)
    yield page
    context.close()


@pytest.fixture
def program() -> Iterator[tuple[str, list[str]]]:
    """(redirect URI, the paths that came back): a program on this machine that waits for its code."""
    got: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            got.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"Signed in: the window can be closed.")

        def log_message(self, *_: Any) -> None:
            pass

    # A browser opens connections before it has a request for them: none of those keeps the next waiting.
    waiting = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=waiting.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{waiting.server_port}/done", got
    waiting.shutdown()
    waiting.server_close()


def fill(page: Any, password: str = PASSWORD) -> None:
    page.get_by_label("User name").fill("ann")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_password_page_program_and_out(
    server: Any, user: str, page: Any, program: tuple[str, list[str]]
) -> None:
    base, (target, got) = server.state["addresses"]["http"], program
    challenge = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
    asked = {
        "client_id": "notebook",
        "response_type": "code",
        "redirect_uri": target,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "state": "st",
    }
    page.goto(f"{base}/ui/authorize?{urlencode(asked)}")
    fill(page, "wrong password")
    page.get_by_role("alert").get_by_text("The user name or the password is wrong.").wait_for()
    # Nothing is wider than a telephone.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.goto(f"{base}/ui/authorize?{urlencode(asked)}")
    fill(page)
    page.get_by_text("The program 'notebook' on this machine").wait_for()
    page.get_by_role("button", name="Allow").click()
    page.get_by_text("the window can be closed").wait_for()
    answer = {name: values[0] for name, values in parse_qs(urlsplit(got[0]).query).items()}
    assert answer["state"] == "st"
    form = {
        "grant_type": "authorization_code",
        "code": answer["code"],
        "client_id": "notebook",
        "redirect_uri": target,
        "code_verifier": VERIFIER,
    }
    with urlopen(base + "/adfs/oauth2/token", urlencode(form).encode(), timeout=60) as reply:
        assert json.load(reply)["token_type"] == "Bearer"
    page.goto(base + "/ui")
    page.get_by_text("ann", exact=True).wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("User name").wait_for()
    page.goto(base + "/ui")
    page.get_by_label("User name").wait_for()
