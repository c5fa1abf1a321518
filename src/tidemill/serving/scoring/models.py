"""Models without a script: found in a folder, loaded by the user's own packages, joined in batches."""

from __future__ import annotations

import os
from typing import Any, Callable, NamedTuple, Sequence

from . import answers, payload, tensors
from .answers import Answer
from .http import Refused
from .request import Request
from .script import NotUsable, Target
from .settings import Settings

KINDS = {
    ".pkl": "sklearn",
    ".pickle": "sklearn",
    ".joblib": "sklearn",
    ".onnx": "onnx",
    ".ubj": "xgboost",
    ".bst": "xgboost",
    ".xgb": "xgboost",
    ".json": "xgboost",
    ".lgb": "lightgbm",
    ".txt": "lightgbm",
}
_DEPTH = 3
MISMATCHES = 3  # batches whose result had another length, after which nothing is joined any more


class Tensor(NamedTuple):
    """Of the Open Inference Protocol: an input or output of a model. -1 is any size."""

    name: str
    datatype: str
    shape: Sequence[int]


class Loaded(NamedTuple):
    """`predict` takes rows (an array, or a frame), and returns as many results."""

    kind: str
    predict: Callable[[Any], Any]
    to_rows: Callable[[payload.Body], Any]
    inputs: list[Tensor]
    joins: bool = True
    with_params: Callable[[Any, Any], Any] | None = None


class Item:
    """The input of one request. `v2`: what its answer needs of a request of the Open Inference Protocol."""

    __slots__ = ("params", "rows", "v2")

    def __init__(self, rows: Any, params: Any = None, v2: Any = None) -> None:
        self.rows = rows
        self.params = params
        self.v2 = v2


def find(settings: Settings) -> tuple[str, str]:
    """-> (path, kind). Raises NotUsable, which names what was looked for and what is there."""
    where = settings.model or settings.model_dir
    if not where:
        raise NotUsable(
            "There is nothing to serve: neither an entry script (AZUREML_ENTRY_SCRIPT) nor a model "
            "(TIDEMILL_SERVING_MODEL, AZUREML_MODEL_DIR) is given."
        )
    where = os.path.join(settings.app_root, where)
    if os.path.isfile(where):
        if os.path.basename(where) == "MLmodel":
            return os.path.dirname(where), "mlflow"
        kind = KINDS.get(os.path.splitext(where)[1].lower())
        if kind is None:
            raise NotUsable(f"The model {where} is none of {', '.join(sorted(KINDS))} or an MLmodel folder.")
        return where, kind
    if not os.path.isdir(where):
        raise NotUsable(f"The model {where} does not exist.")
    return _in_folder(where)


def _in_folder(where: str) -> tuple[str, str]:
    files: list[str] = []
    for folder, folders, names in os.walk(where):
        folders.sort()
        if "MLmodel" in names:
            return folder, "mlflow"
        if folder[len(where) :].count(os.sep) >= _DEPTH:
            folders.clear()
        files.extend(os.path.join(folder, name) for name in sorted(names))
    models = [path for path in files if os.path.splitext(path)[1].lower() in KINDS]
    certain = [path for path in models if not path.lower().endswith((".json", ".txt"))] or models
    if len(certain) != 1:
        there = ", ".join(os.path.relpath(path, where) for path in (certain or files)[:10]) or "nothing"
        what = "several models" if certain else "no model"
        raise NotUsable(f"The folder {where} holds {what}: {there}. Name one by TIDEMILL_SERVING_MODEL.")
    return certain[0], KINDS[os.path.splitext(certain[0])[1].lower()]


class Model(Target):
    def __init__(self, name: str, loaded: Loaded) -> None:
        self.name = name
        self.kind = loaded.kind
        self.inputs = loaded.inputs
        self._loaded = loaded
        self._mismatches = 0
        if loaded.joins:
            self.many = self._many

    def read(self, request: Request) -> Item:
        if request.path.startswith("/v2/"):
            body, answer = tensors.read(request, self.name)
            return Item(self._loaded.to_rows(body), None, answer)
        body = payload.read(request)
        return Item(self._loaded.to_rows(body), body.params)

    def one(self, item: Item) -> Any:
        """What a library says of the input is told the caller; what a user's class raises goes to the log."""
        try:
            if item.params is not None:
                if self._loaded.with_params is None:
                    raise Refused(400, f"A model of {self.kind} takes no params.")
                return self._loaded.with_params(item.rows, item.params)
            return self._loaded.predict(item.rows)
        except Refused:
            raise
        except Exception as error:
            of_mlflow = type(error).__module__.partition(".")[0] == "mlflow"
            of_library = self._loaded.joins and isinstance(error, (ValueError, TypeError, KeyError))
            if of_mlflow or of_library:
                text = f"The model refused the input: {type(error).__name__}: {error}"
                raise Refused(400, text[:2000]) from error
            raise

    def _many(self, items: list[Item]) -> list[Any]:
        if any(item.params is not None for item in items) or self._mismatches >= MISMATCHES:
            raise ValueError("not joined: a request has params, or results are not one for each row")
        lengths = [len(item.rows) for item in items]
        result = self._loaded.predict(_joined([item.rows for item in items]))
        try:
            return _split(result, lengths)
        except ValueError:
            self._mismatches += 1
            raise

    def finish(self, result: Any, item: Item) -> Answer:
        if item.v2 is not None:
            return item.v2(result)
        return answers.Answer(200, answers.jsonio.dumps(payload.plain(result)), answers.JSON, answers.DONE)


def _joined(parts: list[Any]) -> Any:
    if hasattr(parts[0], "iloc"):
        import pandas  # pyright: ignore[reportMissingImports]

        if any(list(part.columns) != list(parts[0].columns) for part in parts[1:]):
            raise ValueError("the requests have different columns")
        return pandas.concat(parts, ignore_index=True)
    import numpy  # pyright: ignore[reportMissingImports]

    return numpy.concatenate(parts)


def _split(result: Any, lengths: list[int]) -> list[Any]:
    """Raises ValueError when there is not one result for each row."""
    if isinstance(result, dict):
        columns = {name: _split(value, lengths) for name, value in result.items()}
        return [{name: values[i] for name, values in columns.items()} for i in range(len(lengths))]
    if not hasattr(result, "__len__") or len(result) != sum(lengths):
        raise ValueError(f"{sum(lengths)} rows gave a result of another length")
    rows = result.iloc if hasattr(result, "iloc") else result
    found, at = [], 0
    for length in lengths:
        found.append(rows[at : at + length])
        at += length
    return found
