"""The Open Inference Protocol (KServe's V2, REST) beside Azure's contract: metadata, readiness, infer.

Specification: github.com/kserve/open-inference-protocol, rest/inference_rest.yaml. Errors are {"error": …}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from . import jsonio
from .answers import Answer
from .http import Refused
from .models import Model
from .request import Request
from .scorers import Scorer
from .settings import VERSION
from .tensors import MODEL_VERSION, error

if TYPE_CHECKING:
    from .connection import Connection


class V2:
    """`model`: None for an entry script, which has no tensors to describe."""

    def __init__(self, name: str, model: Model | None, scorer: Callable[[], Scorer]) -> None:
        self._name = name
        self._model = model
        self._scorer = scorer

    def serve(self, connection: Connection, request: Request) -> None:
        try:
            answer = self._answer(request)
        except Refused as refused:
            answer = error(refused.status, refused.message)
        if answer is None:
            self._scorer().submit(connection, request)
        else:
            connection.reply(request, answer)

    def _answer(self, request: Request) -> Answer | None:
        """None: it is for the model."""
        parts = request.path.strip("/").split("/")[1:]
        if not parts:
            _method(request, "GET")
            extensions: list[str] = []
            return _json({"name": "tidemill", "version": VERSION, "extensions": extensions})
        if parts[0] != "models" or len(parts) < 2:
            raise Refused(404, f"There is nothing at {request.path[:200]}.")
        if parts[1] != self._name:
            raise Refused(404, f"There is no model {parts[1][:100]!r} here; there is {self._name!r}.")
        rest = parts[2:]
        if rest[:1] == ["versions"] and len(rest) > 1:
            if rest[1] != MODEL_VERSION:
                raise Refused(404, f"The model has no version {rest[1][:100]!r}; it has {MODEL_VERSION!r}.")
            rest = rest[2:]
        if rest == ["infer"]:
            _method(request, "POST")
            if self._model is None:
                raise Refused(400, "This is an entry script: it takes its own input, at /score.")
            return None
        if rest == ["ready"]:
            _method(request, "GET")
            return _json({"name": self._name, "ready": True})
        if rest:
            raise Refused(404, f"There is nothing at {request.path[:200]}.")
        _method(request, "GET")
        return _json(self._metadata())

    def _metadata(self) -> dict[str, Any]:
        inputs = [] if self._model is None else self._model.inputs
        platform = "python" if self._model is None else f"{self._model.kind}_tidemill"
        described = [{"name": i.name, "datatype": i.datatype, "shape": list(i.shape)} for i in inputs]
        return {
            "name": self._name,
            "versions": [MODEL_VERSION],
            "platform": platform,
            "inputs": described,
            "outputs": [],
        }


def _method(request: Request, method: str) -> None:
    if request.method != method:
        raise Refused(405, "Method not allowed")


def _json(value: Any) -> Answer:
    return Answer(200, jsonio.dumps(value))
