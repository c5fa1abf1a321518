"""A real OpenID Connect provider on loopback (npm's certified `oidc-provider`), and a browser that follows
its pages."""

from __future__ import annotations

import fcntl
import http.client
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import unescape
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

ROOT = Path(__file__).parents[2]
PREFIX = ROOT / ".cache" / "oidc-provider"
VERSION = "8.8.1"
SECRET = "a client secret of the tests"


class Unavailable(Exception):
    """What the provider needs is not here."""


def install() -> None:
    """Into a prefix of its own, once."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise Unavailable("npm and node are needed for oidc-provider")
    PREFIX.mkdir(parents=True, exist_ok=True)
    with open(PREFIX / "install.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        whole = PREFIX / f"whole-{VERSION}"  # an installation that was interrupted has its folders, too
        if not whole.exists():
            argv = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(PREFIX)]
            done = subprocess.run(
                [*argv, f"oidc-provider@{VERSION}"], capture_output=True, text=True, timeout=300
            )
            if done.returncode:
                raise Unavailable(f"npm could not install oidc-provider: {done.stderr[-500:]}")
            whole.touch()
        # A module is found beside the packages that it imports.
        shutil.copy(Path(__file__).with_name("oidc_provider") / "provider.mjs", PREFIX / "provider.mjs")


@contextmanager
def running(redirect_uris: list[str]) -> Iterator[str]:
    """-> its issuer. Raises Unavailable naming what is missing."""
    install()
    argv = ["node", str(PREFIX / "provider.mjs"), SECRET, *redirect_uris]
    env = {**os.environ, "NODE_ENV": "test"}
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, text=True)
    try:
        assert process.stdout is not None
        # Its lines end with the process.
        issuer = next((line.split()[1] for line in process.stdout if line.startswith("ready ")), None)
        assert issuer is not None, "oidc-provider ended"
        yield issuer
    finally:
        process.kill()
        process.wait()


@dataclass
class Page:
    url: str
    status: int
    text: str
    headers: dict[str, str]


@dataclass
class Browser:
    """Keeps cookies by host and port, follows redirects, sends forms with their origin."""

    cookies: dict[str, dict[str, str]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    def get(self, url: str, follow: bool = True) -> Page:
        return self._go("GET", url, None, {}, follow)

    def submit(self, page: Page, follow: bool = True, **values: str) -> Page:
        """The first form of the page, with these values in it."""
        form = re.search(r"<form\b[^>]*>.*?</form>", page.text, re.DOTALL)
        assert form is not None, page.text
        action = re.search(r'action="([^"]*)"', form[0])
        sent = {}
        for tag in re.findall(r"<input\b[^>]*>", form[0]):
            name, value = (re.search(rf'{what}="([^"]*)"', tag) for what in ("name", "value"))
            if name and ("hidden" in tag or value):
                sent[unescape(name[1])] = unescape(value[1]) if value else ""
        target = urljoin(page.url, unescape(action[1]) if action else page.url)
        parts = urlsplit(page.url)
        origin = {"Origin": f"{parts.scheme}://{parts.netloc}"}
        return self._go("POST", target, urlencode({**sent, **values}), origin, follow)

    def _go(self, method: str, url: str, body: str | None, headers: dict[str, str], follow: bool) -> Page:
        for _ in range(12):
            page = self._once(method, url, body, headers)
            self.seen.append(url)
            if page.status not in (302, 303) or not follow:
                return page
            url, method, body, headers = urljoin(url, page.headers["location"]), "GET", None, {}
        raise AssertionError(f"it goes round in circles: {self.seen[-4:]}")

    def _once(self, method: str, url: str, body: str | None, headers: dict[str, str]) -> Page:
        parts = urlsplit(url)
        jar = self.cookies.setdefault(parts.netloc, {})
        sent = dict(headers)
        if jar:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
        if body is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=20)
        try:
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request(method, target or "/", body=body, headers=sent)
            reply = connection.getresponse()
            text = reply.read().decode("utf-8", "replace")
            for line in reply.msg.get_all("set-cookie") or []:
                for name, morsel in SimpleCookie(line).items():
                    gone = morsel["max-age"] == "0" or "1970" in morsel["expires"]
                    if gone:
                        jar.pop(name, None)
                    else:
                        jar[name] = morsel.value
            found = {name.lower(): value for name, value in reply.getheaders()}
            return Page(url, reply.status, text, found)
        finally:
            connection.close()
