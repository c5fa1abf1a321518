"""A worker: the user's script, in a process of its own. `init()` once, `run()` for each batch, `shutdown()`.

Arguments: the spec, and the descriptors that batches come from and results go to.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from .batches import root_of
from .spec import Spec, read
from .tables import Table, frame, read_table


class MiniBatchContext:
    """The second argument of run(), for those that take one."""

    def __init__(self, index: int, key: dict[str, str] | None) -> None:
        self.minibatch_index = index
        self.partition_key_value = key


class Script:
    """Raises what the script raises when it is loaded."""

    def __init__(self, spec: Spec) -> None:
        path = spec.script
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"The code has no file {os.path.basename(path)!r}: task.entry_script is below task.code."
            )
        sys.argv = [path, *shlex.split(spec.arguments)]
        for folder in (os.getcwd(), os.path.dirname(path)):
            if folder not in sys.path:
                sys.path.insert(0, folder)
        name = os.path.splitext(os.path.basename(path))[0]
        found = importlib.util.spec_from_file_location(name, path)
        if found is None or found.loader is None:
            raise ImportError(f"{path} is no Python file.")
        module = importlib.util.module_from_spec(found)
        sys.modules[name] = module
        found.loader.exec_module(module)
        self.init: Any = getattr(module, "init", None)
        self.shutdown: Any = getattr(module, "shutdown", None)
        run = getattr(module, "run", None)
        if not callable(run):
            raise AttributeError(f"{os.path.basename(path)} has no function run(mini_batch).")
        self._run = run
        self._with_context = _takes_context(run)

    def run(self, given: Any, context: MiniBatchContext) -> Any:
        return self._run(given, context) if self._with_context else self._run(given)


def _takes_context(run: Callable[..., Any]) -> bool:
    try:
        kinds = [p.kind for p in inspect.signature(run).parameters.values()]
    except (TypeError, ValueError):
        return False
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(kind in places for kind in kinds) > 1


def rows_of(result: Any, wanted: bool) -> tuple[str, int]:
    """What run() returned, as (text with a line each, how many). Raises TypeError."""
    if result is None or isinstance(result, (str, bytes, dict, int, float)):
        raise TypeError(
            "run() must return a list, an array or a pandas DataFrame with an element for each item that "
            f"worked; it returned {type(result).__name__}."
        )
    if hasattr(result, "to_csv") and hasattr(result, "columns"):
        text = result.to_csv(sep=" ", header=False, index=False) if wanted else ""
        return text, len(result)
    found = list(result)
    return "".join(f"{item}\n" for item in found) if wanted else "", len(found)


class Worker:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._root = root_of(spec)
        self._table: Table | None = read_table(spec.table) if spec.table is not None else None
        self._script = Script(spec)
        if self._script.init is not None:
            self._script.init()

    def score(self, index: int, batch: dict[str, Any]) -> dict[str, Any]:
        items = len(batch.get("files") or ()) or 1
        try:
            given = self._given(batch)
            items = len(given)
            result = self._script.run(given, MiniBatchContext(index, batch.get("key")))
            rows, count = rows_of(result, bool(self._spec.append_to))
        except KeyboardInterrupt:
            raise
        except BaseException:  # also SystemExit: a script that exits has failed on this batch
            return {"items": items, "returned": 0, "error": trace()}
        return {"items": items, "returned": count, "rows": rows}

    def _given(self, batch: dict[str, Any]) -> Any:
        if "files" in batch:
            return [os.path.join(self._root, path) for path in batch["files"]]
        assert self._table is not None
        return frame(self._root, self._table, batch["slices"])

    def end(self) -> None:
        if self._script.shutdown is not None:
            self._script.shutdown()


def trace() -> str:
    """The traceback, without our own frames in front of the user's."""
    kind, error, frames = sys.exc_info()
    here = os.path.dirname(os.path.abspath(__file__))
    while (
        frames is not None and frames.tb_next is not None and _ours(frames.tb_frame.f_code.co_filename, here)
    ):
        frames = frames.tb_next
    return "".join(traceback.format_exception(kind, error, frames))


def _ours(filename: str, here: str) -> bool:
    return os.path.dirname(os.path.abspath(filename)) == here or filename.startswith("<frozen importlib")


def main(arguments: list[str]) -> int:
    path, given, made = arguments[0], int(arguments[1]), int(arguments[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for descriptor in (given, made):
        os.set_inheritable(descriptor, False)  # what the script starts must not hold them open
    spec = read(path)
    logging.basicConfig(level=getattr(logging, spec.logging_level.upper(), logging.INFO))
    with os.fdopen(given, "rb") as source, os.fdopen(made, "wb") as sink:

        def tell(message: dict[str, Any]) -> None:
            sink.write(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
            sink.flush()

        try:
            worker = Worker(spec)
        except BaseException:
            tell({"error": trace()})
            return 1
        tell({"ready": True})
        for line in source:
            message = json.loads(line)
            tell(worker.score(message["i"], message["batch"]))
    worker.end()
    return 0
