"""The entry script of batch deployments of an mlflow_model: files in, a line for each prediction out.

A line is `row,prediction,file`: the row's number in its file ("" where the file is one item), what the model
predicted (JSON where that is no single value), and the file's name
(https://learn.microsoft.com/azure/machine-learning/how-to-mlflow-batch). Python 3.8 or newer.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
from typing import Any

TABLES = {".csv": "read_csv", ".parquet": "read_parquet", ".pqt": "read_parquet"}
IMAGES = (".png", ".jpg", ".jpeg", ".tiff", ".bmp", ".gif")
MLMODEL = "MLmodel"

model: Any = None


def init() -> None:
    global model
    pyfunc: Any = importlib.import_module("mlflow.pyfunc")
    model = pyfunc.load_model(folder_of(os.environ["AZUREML_MODEL_DIR"]))


def run(mini_batch: Any) -> list[str]:
    """A list of paths, or the rows of a table."""
    if hasattr(mini_batch, "columns"):
        return lines_of(model.predict(mini_batch), "")
    found: list[str] = []
    for path in mini_batch:
        found += _of_file(path)
    return found


def folder_of(root: str) -> str:
    """Where the file MLmodel lies: there, or in the one folder that was registered."""
    for folder in [root, *(os.path.join(root, name) for name in sorted(os.listdir(root)))]:
        if os.path.isfile(os.path.join(folder, MLMODEL)):
            return folder
    raise FileNotFoundError(f"{root} has no file {MLMODEL}.")


def _of_file(path: str) -> list[str]:
    name, kind = os.path.basename(path), os.path.splitext(path)[1].lower()
    if kind in TABLES:
        pandas: Any = importlib.import_module("pandas")
        return lines_of(model.predict(getattr(pandas, TABLES[kind])(path)), name)
    if kind in IMAGES:
        return [line("", plain(model.predict(_image(path))), name)]
    raise ValueError(
        f"{name}: the model is given files of {', '.join([*TABLES, *IMAGES])}. For others write a scoring "
        "script and give it to the deployment (code_configuration)."
    )


def _image(path: str) -> Any:
    pictures: Any = importlib.import_module("PIL.Image")
    numpy: Any = importlib.import_module("numpy")
    with pictures.open(path) as image:
        return numpy.array(image)


def lines_of(predicted: Any, name: str) -> list[str]:
    """A line for each row of what was predicted."""
    if hasattr(predicted, "columns"):  # a DataFrame
        columns = [str(column) for column in predicted.columns]
        rows = predicted.itertuples(index=False, name=None)
        values = [dict(zip(columns, map(plain, row))) if len(columns) > 1 else plain(row[0]) for row in rows]
    else:
        values = [plain(value) for value in predicted]
    return [line(str(number), value, name) for number, value in enumerate(values)]


def plain(value: Any) -> Any:
    """Of numpy's values Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


def line(row: str, value: Any, name: str) -> str:
    """As a file of comma-separated values has it, without the line's end."""
    text = json.dumps(value) if isinstance(value, (dict, list, tuple)) else str(value)
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow([row, text, name])
    return out.getvalue()
