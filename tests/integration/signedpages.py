"""The portal's pages, asked for by a signed-in browser without a screen."""

from __future__ import annotations

from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit


class Pages:
    """`state`: server.json; `link`: of `tidemill portal --no-browser`, good once."""

    def __init__(self, state: dict[str, Any], link: str) -> None:
        where = state["workspace"]
        self.base = f"/ui/{where['subscription']}/{where['group']}/{where['name']}"
        self.origin = state["addresses"]["http"]
        self._cookie = ""
        parts = urlsplit(link)
        status, headers, _ = self.send("GET", f"{parts.path}?{parts.query}")
        assert status == 303
        self._cookie = headers["set-cookie"].split(";")[0]

    def send(self, method: str, path: str, form: dict[str, str] | None = None) -> tuple[int, Any, str]:
        connection = HTTPConnection(urlsplit(self.origin).netloc, timeout=30)
        headers = {"cookie": self._cookie, "origin": self.origin}
        try:
            connection.request(method, path, urlencode(form) if form is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()
