"""Entry scripts: found, imported, `init()` called, `run()` understood."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from types import ModuleType
from typing import Any, Callable

from . import answers, inputs, raw
from .answers import Answer
from .request import Request
from .settings import Settings


class NotUsable(Exception):
    """The script cannot serve; the message says what it lacks."""


class Failed(Exception):
    """The script's own error, in `stage` (import, init)."""

    def __init__(self, stage: str, error: BaseException) -> None:
        super().__init__(str(error))
        self.stage = stage
        self.error = error


class Target:
    """What answers /score: a script or a model.

    `read` makes the input of one request (raises Refused), `one` runs it, `many`, where there is one,
    several together: a list as long as theirs, in which an exception stands for an input that failed.
    `finish` makes the answer.
    """

    name = ""
    is_async = False
    many: Callable[[list[Any]], list[Any]] | None = None

    def read(self, request: Request) -> Any:
        raise NotImplementedError

    def one(self, item: Any) -> Any:
        raise NotImplementedError

    def finish(self, result: Any, item: Any) -> Answer:
        return answers.of(result)


class Script(Target):
    def __init__(self, module: ModuleType, run: Callable[..., Any]) -> None:
        """Raises NotUsable."""
        self.name = os.path.basename(str(getattr(module, "__file__", "main")))
        self.module = module
        self.run = run
        plain = inspect.unwrap(run)
        self.is_async = inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain)
        parameters = list(inspect.signature(run).parameters.values())
        if any(p.kind not in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters):
            raise NotUsable("run() cannot accept positional-only arguments, *args, or **kwargs.")
        self._wants_headers = any(p.name == "request_headers" for p in parameters)
        parameters = [p for p in parameters if p.name != "request_headers"]
        if not parameters:
            also = ' other than "request_headers"' if self._wants_headers else ""
            raise NotUsable(f"run() needs to accept an argument{also} for input data.")
        self._first = parameters[0].name
        self._call_raw: Callable[..., Any] | None = None
        self._choose(parameters)

    def _choose(self, parameters: list[inspect.Parameter]) -> None:
        raw_module = raw.requested()
        self.schema = _schema_of(self.run)
        if raw_module is not None and self.schema:
            raise NotUsable("run() cannot be decorated with both @rawhttp and @input_schema.")
        if raw_module is not None:
            self.kind = "is decorated with @rawhttp: it gets the request"
            self._call_raw = raw.calls(raw_module)
            self._reader: inputs.Reader = lambda request: {}
        elif self.schema:
            names = ", ".join(parameter.name for parameter in parameters)
            self.kind = f"is decorated with @input_schema: it gets {names}"
            self._reader = inputs.as_parameters(parameters)
        else:
            self.kind = "is not decorated: it gets the body as text"
            self._reader = inputs.as_text(self._first)
        batch = getattr(self.module, "run_batch", None)
        if batch is None:
            return
        if self.is_async or raw_module is not None or self._wants_headers or len(parameters) != 1:
            raise NotUsable(
                "run_batch() needs a run() that is synchronous and takes the input alone "
                "(no @rawhttp, no request_headers, one parameter)."
            )
        self.many = lambda items: self._many(batch, items)
        self.kind += "; run_batch() gets those that wait together"

    def read(self, request: Request) -> Any:
        return self._reader(request), request

    def one(self, item: Any) -> Any:
        """What run() returns: of an async one, an awaitable or an async iterator."""
        arguments, request = item
        if self._wants_headers:
            arguments["request_headers"] = {name.title(): value for name, value in request.headers.items()}
        if self._call_raw is not None:
            return self._call_raw(request, lambda given: self.run(**{self._first: given}, **arguments))
        return self.run(**arguments)

    def _many(self, batch: Callable[[list[Any]], Any], items: list[Any]) -> list[Any]:
        results = batch([arguments[self._first] for arguments, _ in items])
        if not isinstance(results, (list, tuple)) or len(results) != len(items):
            got = f"{len(results)} results" if hasattr(results, "__len__") else type(results).__name__
            raise TypeError(f"run_batch() got {len(items)} inputs and returned {got}.")
        return list(results)


def _schema_of(run: Callable[..., Any]) -> bool:
    """Whether run() is decorated by inference-schema, which the script has imported then."""
    schemas = sys.modules.get("inference_schema.schema_util")
    return schemas is not None and bool(schemas.is_schema_decorated(run))


def load(settings: Settings) -> Script:
    """Import the script, call its init(). Raises Failed, NotUsable."""
    raw.install()
    module = _import(settings)
    for name in ("init", "run"):
        if not callable(getattr(module, name, None)):
            where = getattr(module, "__file__", module.__name__)
            raise NotUsable(f"The entry script {where} does not define {name}().")
    # A generated script around the real one: its init() does things of its own, its run() only passes on.
    behind = getattr(module, "driver_module", None)
    run = behind.run if isinstance(behind, ModuleType) and hasattr(behind, "run") else module.run
    script = Script(module, run)
    try:
        module.init()
    except BaseException as error:
        raise Failed("init", error) from error
    return script


def _import(settings: Settings) -> ModuleType:
    name, place = "main", ""
    if settings.entry_script:
        name = "entry_module"
        place = os.path.join(settings.app_root, settings.entry_script)
        if not os.path.isfile(place):
            there = (
                ", ".join(sorted(os.listdir(settings.app_root))[:20])
                if os.path.isdir(settings.app_root)
                else ""
            )
            raise NotUsable(
                "AZUREML_ENTRY_SCRIPT={!r}: there is no file {}. AML_APP_ROOT holds: {}".format(
                    settings.entry_script, place, there or "nothing"
                )
            )
    try:
        if not place:
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(name, place)
        if spec is None or spec.loader is None:
            raise NotUsable(f"AZUREML_ENTRY_SCRIPT={settings.entry_script!r} is no Python file.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # so that what the script defines can be pickled
        spec.loader.exec_module(module)
    except NotUsable:
        raise
    except BaseException as error:
        raise Failed("import", error) from error
    return module
