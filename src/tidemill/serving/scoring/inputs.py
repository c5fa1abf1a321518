"""From a request to the arguments of run(): as text, as a raw request, or as the parameters of a schema."""

from __future__ import annotations

import inspect
import json
from typing import Any, Callable, Dict
from urllib.parse import parse_qsl

from . import jsonio
from .http import Refused
from .request import Request

Arguments = Dict[str, Any]
Reader = Callable[[Request], Arguments]


def query_values(query: str) -> dict[str, Any]:
    """`a=1&b=[1,2]&c=x&c=y` -> {"a": 1, "b": [1, 2], "c": ["x", "y"]}: JSON where it is JSON, else text."""
    values: dict[str, list[Any]] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        values.setdefault(name, []).append(_value(text))
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _only(request: Request) -> None:
    if request.method not in ("GET", "POST"):
        raise Refused(405, "Method not allowed")


def as_text(parameter: str) -> Reader:
    """run() is not decorated: it gets the body as text."""

    def read(request: Request) -> Arguments:
        if request.method == "POST":
            try:
                return {parameter: str(request.body, "utf-8")}
            except UnicodeDecodeError as error:
                raise Refused(400, f"Input cannot be decoded as UTF-8: {error}") from None
        _only(request)
        return {parameter: json.dumps(query_values(request.query))}

    return read


def as_parameters(parameters: list[inspect.Parameter]) -> Reader:
    """run() is decorated with @input_schema: each parameter is a member of the JSON body."""

    def read(request: Request) -> Arguments:
        _only(request)
        values = query_values(request.query) if request.method == "GET" else json_object(request)
        found: Arguments = {}
        for parameter in parameters:
            value = values.get(parameter.name, parameter.default)
            if value is inspect.Parameter.empty:
                raise Refused(400, f"A value is not provided for the {parameter.name!r} parameter.")
            found[parameter.name] = value
        return found

    return read


def json_object(request: Request) -> dict[str, Any]:
    body = json_body(request)
    if not isinstance(body, dict):
        raise Refused(400, "POST body should be a JSON dictionary.")
    return body


def json_body(request: Request) -> Any:
    """Raises Refused (400, 415)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise Refused(415, "Expects Content-Type to be application/json")
    if not request.body:
        raise Refused(400, "POST body is empty. Expecting a JSON dictionary.")
    try:
        return jsonio.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"POST body could not be decoded as JSON: {error}") from None
