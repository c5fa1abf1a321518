"""Raw HTTP for entry scripts: @rawhttp, AMLRequest, AMLResponse.

Azure's are Flask's classes, from azureml-contrib-services or azureml-inference-server-http. Where the
environment has one of those packages it is used, with Flask's request; else modules of their names with
what scripts use of them are made here, found after everything that is installed.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import io
import json
import sys
from types import ModuleType
from typing import Any, Callable, Iterable, Iterator, Sequence
from urllib.parse import parse_qsl, urlsplit

from .request import Request as Received

_REQUESTS = ("azureml.contrib.services.aml_request", "azureml_inference_server_http.api.aml_request")
_RESPONSES = ("azureml.contrib.services.aml_response", "azureml_inference_server_http.api.aml_response")
_PACKAGES = ("azureml", "azureml.contrib", "azureml.contrib.services", "azureml_inference_server_http")
_PACKAGES += ("azureml_inference_server_http.api",)


class Headers:
    """Header fields; names in any case. Iterating gives pairs, as Flask's do."""

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs: list[tuple[str, str]] = list(pairs)

    def getlist(self, name: str) -> list[str]:
        return [value for key, value in self._pairs if key.lower() == name.lower()]

    def get(self, name: str, default: Any = None, type: Callable[[str], Any] | None = None) -> Any:
        found = self.getlist(name)
        if not found:
            return default
        return found[0] if type is None else type(found[0])

    def __getitem__(self, name: str) -> str:
        found = self.getlist(name)
        if not found:
            raise KeyError(name)
        return found[0]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.getlist(name))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def items(self) -> list[tuple[str, str]]:
        return list(self._pairs)

    def keys(self) -> list[str]:
        return [key for key, _ in self._pairs]

    def values(self) -> list[str]:
        return [value for _, value in self._pairs]

    def remove(self, name: str) -> None:
        self._pairs = [pair for pair in self._pairs if pair[0].lower() != name.lower()]

    def add(self, name: str, value: Any) -> None:
        self._pairs.append((name, str(value)))

    add_header = add

    def __setitem__(self, name: str, value: Any) -> None:
        self.remove(name)
        self.add(name, value)

    set = __setitem__

    def __delitem__(self, name: str) -> None:
        self.remove(name)


class Values(Headers):
    """Query parameters or form fields: like Headers, but names keep their case."""

    def getlist(self, name: str) -> list[str]:
        return [value for key, value in self._pairs if key == name]

    def __iter__(self) -> Iterator[Any]:
        return iter(dict(self._pairs))

    def to_dict(self, flat: bool = True) -> dict[str, Any]:
        return {key: self[key] if flat else self.getlist(key) for key in self}


class AMLRequest:
    """What scripts use of Flask's request: method, headers, args, form, data, get_json(), …"""

    def __init__(self, received: Received) -> None:
        self.method = received.method
        self.path = received.path
        self.query_string = received.query.encode("latin-1")
        self.headers = Headers((name.title(), value) for name, value in received.headers.items())
        self.data = received.body
        self.host = received.headers.get("host", "")
        self.url = f"http://{self.host}{received.head.target}"
        self.full_path = f"{self.path}?{received.query}"
        self.base_url = urlsplit(self.url)._replace(query="").geturl()
        self.remote_addr = "127.0.0.1"

    @property
    def content_type(self) -> str | None:
        return self.headers.get("content-type")

    @property
    def mimetype(self) -> str:
        return (self.content_type or "").partition(";")[0].strip().lower()

    @property
    def content_length(self) -> int:
        return len(self.data)

    @property
    def stream(self) -> io.BytesIO:
        return io.BytesIO(self.data)

    @property
    def args(self) -> Values:
        return Values(parse_qsl(self.query_string.decode("latin-1"), keep_blank_values=True))

    @property
    def form(self) -> Values:
        if self.mimetype == "application/x-www-form-urlencoded":
            return Values(parse_qsl(self.data.decode(), keep_blank_values=True))
        return Values((part.name, part.read().decode()) for part in self._parts() if not part.filename)

    @property
    def files(self) -> Values:
        return Values((part.name, part) for part in self._parts() if part.filename)  # type: ignore[misc]

    @property
    def cookies(self) -> dict[str, str]:
        pairs = (
            cookie.partition("=") for cookie in self.headers.get("cookie", "").split(";") if "=" in cookie
        )
        return {name.strip(): value.strip() for name, _, value in pairs}

    @property
    def is_json(self) -> bool:
        kind = self.mimetype
        return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))

    @property
    def json(self) -> Any:
        return self.get_json()

    def get_data(self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False) -> Any:
        return self.data.decode() if as_text else self.data

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """Raises ValueError when the body is no JSON, or not called JSON and `force` is not given."""
        if not force and not self.is_json:
            if silent:
                return None
            raise ValueError("The request's Content-Type is not application/json.")
        try:
            return json.loads(self.data)
        except ValueError:
            if silent:
                return None
            raise

    def _parts(self) -> list[Part]:
        if self.mimetype != "multipart/form-data":
            return []
        from email.parser import BytesParser
        from email.policy import HTTP

        head = f"Content-Type: {self.content_type}\r\n\r\n".encode("latin-1")
        parts = []
        for message in BytesParser(policy=HTTP).parsebytes(head + self.data).iter_parts():
            name = message.get_param("name", header="content-disposition")
            content: Any = message.get_payload(decode=True)
            parts.append(Part(str(name), message.get_filename(), message.get_content_type(), content or b""))
        return parts


class Part(io.BytesIO):
    """A file of a form, as Flask's FileStorage."""

    def __init__(self, name: str, filename: str | None, content_type: str, content: bytes) -> None:
        super().__init__(content)
        self.name = name
        self.filename = filename
        self.content_type = self.mimetype = content_type

    @property
    def stream(self) -> Part:
        return self

    def save(self, destination: Any) -> None:
        if hasattr(destination, "write"):
            destination.write(self.getvalue())
            return
        with open(destination, "wb") as file:
            file.write(self.getvalue())


class AMLResponse:
    """An answer that is sent as it is: body, status, headers; with `json_str` the message becomes JSON."""

    def __init__(
        self,
        message: Any,
        status_code: int,
        response_headers: dict[str, str] | None = None,
        json_str: bool = False,
        run_function_failed: bool = False,
    ) -> None:
        self.status_code = int(status_code)
        self.response = message
        as_json = json_str or message is None
        if as_json:
            self.response = json.dumps({} if message is None else message)
        self.headers = Headers(
            [("Content-Type", "application/json" if as_json else "text/html; charset=utf-8")]
        )
        self.headers["x-ms-run-function-failed"] = run_function_failed
        for name, value in (response_headers or {}).items():
            if name.lower() == "content-type":
                self.headers.remove(name)
            for part in value.split(","):
                self.headers.add_header(name, part.strip())

    @property
    def is_streamed(self) -> bool:
        return not isinstance(self.response, (str, bytes, bytearray, list, tuple))

    def get_data(self, as_text: bool = False) -> Any:
        whole = self.response if isinstance(self.response, (list, tuple)) else [self.response]
        data = b"".join(piece.encode() if isinstance(piece, str) else bytes(piece) for piece in whole)
        return data.decode() if as_text else data

    @property
    def data(self) -> bytes:
        return self.get_data()


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands last: asked only for what is not installed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name in _PACKAGES or name in _REQUESTS or name in _RESPONSES:
            return importlib.machinery.ModuleSpec(name, self, is_package=name in _PACKAGES)
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        module.__dict__["_tidemill"] = True
        if name in _REQUESTS:
            module.__dict__.update(AMLRequest=AMLRequest, _rawHttpRequested=False)

            def rawhttp(function: Callable[..., Any]) -> Callable[..., Any]:
                """run() gets the request itself."""
                module.__dict__["_rawHttpRequested"] = True
                return function

            module.__dict__["rawhttp"] = rawhttp
        elif name in _RESPONSES:
            module.__dict__["AMLResponse"] = AMLResponse
        elif name == "azureml.contrib.services":
            module.__dict__["rawhttp"] = importlib.import_module(_REQUESTS[0]).rawhttp


def install() -> None:
    sys.meta_path.append(_Finder())


def requested() -> str | None:
    """The module whose @rawhttp the script used: its name, or None."""
    for name in _REQUESTS:
        module = sys.modules.get(name)
        if module is not None and getattr(module, "_rawHttpRequested", False):
            return name
    return None


def calls(name: str) -> Callable[[Received, Callable[[Any], Any]], Any]:
    """How run() is called with a raw request: with ours, or inside a request context of the real Flask."""
    if getattr(sys.modules[name], "_tidemill", False):
        return lambda received, run: run(AMLRequest(received))
    import flask  # pyright: ignore[reportMissingImports]

    app = flask.Flask("tidemill", static_folder=None)

    def call(received: Received, run: Callable[[Any], Any]) -> Any:
        with app.request_context(environ(received)):
            return run(flask.request._get_current_object())

    return call


def environ(received: Received) -> dict[str, Any]:
    """A request as WSGI has it (PEP 3333)."""
    host, _, port = received.headers.get("host", "localhost").partition(":")
    found: dict[str, Any] = {
        "REQUEST_METHOD": received.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": received.path.encode().decode("latin-1"),
        "QUERY_STRING": received.query,
        "SERVER_NAME": host,
        "SERVER_PORT": port or "80",
        "SERVER_PROTOCOL": f"HTTP/1.{received.head.version}",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": str(len(received.body)),
        "CONTENT_TYPE": received.headers.get("content-type", ""),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(received.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    for name, value in received.headers.items():
        if name not in ("content-length", "content-type", "transfer-encoding"):
            found["HTTP_" + name.upper().replace("-", "_")] = value
    return found
