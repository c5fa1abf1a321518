"""Which path is answered by what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable
from urllib.parse import parse_qs

from . import answers
from .answers import Answer
from .cors import Cors
from .health import PATHS
from .http import Refused
from .request import Request
from .scorers import Scorer
from .v2 import V2

if TYPE_CHECKING:
    from .connection import Connection

Swagger = Callable[[str], Answer]


class App:
    """`swagger` answers for a version; `v2` for a path of the Open Inference Protocol."""

    def __init__(self, scorer: Scorer, swagger: Swagger, v2: V2, cors: Cors) -> None:
        self._scorer = scorer
        self._swagger = swagger
        self._v2 = v2
        self.cors = cors

    def serve(self, connection: Connection, request: Request) -> None:
        """Answers through `connection.reply`, now or later. Raises Refused."""
        path, method = request.path, request.method
        if method == "POST" and (path == "/score" or path == "/"):
            if path == "/":
                raise Refused(405, "Method not allowed")
            self._scorer.submit(connection, request)
        elif method == "OPTIONS" and path in ("/score", "/swagger.json", "/"):
            connection.reply(request, Answer(200, b"", "text/html; charset=utf-8"))
        elif path == "/score":
            if method != "GET":
                raise Refused(405, "Method not allowed")
            self._scorer.submit(connection, request)
        elif path == "/swagger.json":
            _only_get(method)
            version = parse_qs(request.query).get("version", ["2"])[0]
            connection.reply(request, self._swagger(version))
        elif path in PATHS:
            _only_get(method)
            connection.reply(request, _healthy(path))
        elif path == "/v2" or path.startswith("/v2/"):
            self._v2.serve(connection, request)
        else:
            raise Refused(404, f"There is nothing at {path[:200]}: ask /, /score, /swagger.json or /v2.")


def _only_get(method: str) -> None:
    if method not in ("GET", "HEAD"):
        raise Refused(405, "Method not allowed")


def _healthy(path: str) -> Answer:
    """A worker that answers is ready: this is for connections that carried other requests before."""
    if path == "/":
        return Answer(200, b"Healthy", "text/html; charset=utf-8")
    return Answer(200, answers.jsonio.dumps({path.rpartition("/")[2]: True}))
