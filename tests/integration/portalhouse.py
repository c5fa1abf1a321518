"""The portal's pages as several people get them, without a browser."""

from __future__ import annotations

import http.client
import json
import re
from dataclasses import dataclass
from html import unescape
from typing import Any
from urllib.parse import urlencode, urlsplit

from accessclient import token_for
from jobserver import JobServer


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    html: str

    @property
    def text(self) -> str:
        """What is read on it: without tags, one space between words."""
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", self.html)).split())


class House:
    """`who` is somebody with a session: "owner", a name that `make` made, or "" for nobody."""

    def __init__(self, server: JobServer) -> None:
        self.server = server
        self.netloc = urlsplit(server.state["addresses"]["http"]).netloc
        self.base = "/ui/" + "/".join(server.state["workspace"].values())
        self.tokens = {"": "", "owner": server.token()}
        self.oids: dict[str, str] = {}

    def access(self, *words: str) -> Any:
        return self.cli("access", *words)

    def cli(self, *words: str) -> Any:
        done = self.server.cli(*words, "--output", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    def make(self, name: str) -> None:
        made = self.access("create-user", name)
        self.oids[name] = made["oid"]
        self.tokens[name] = token_for(self.server.home, self.server.state, made)

    def get(self, who: str, path: str, **headers: str) -> Reply:
        return self._send(who, "GET", path, None, headers)

    def post(self, who: str, path: str, form: dict[str, str], **headers: str) -> Reply:
        return self._send(who, "POST", path, urlencode(form), {"origin": f"http://{self.netloc}", **headers})

    def _send(self, who: str, method: str, path: str, body: str | None, given: dict[str, str]) -> Reply:
        headers = {name.replace("_", "-"): value for name, value in given.items() if value}
        headers["cookie"] = f"tidemill_session={self.tokens[who]}"
        connection = http.client.HTTPConnection(self.netloc, timeout=30)
        try:
            connection.request(method, path if path.startswith("/") else f"{self.base}/{path}", body, headers)
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read().decode())
        finally:
            connection.close()

    def submit_form(self, who: str, page: Reply, **headers: str) -> Reply:
        """Presses the button of the page's confirmation."""
        form = re.search(
            r'<form class="choices" method="post" action="([^"]+)">(.*?)</form>', page.html, re.S
        )
        assert form, page.text
        fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', form[2]))
        given = {name: unescape(value) for name, value in fields.items()}
        return self.post(who, unescape(form[1]), given, **headers)
