"""How each kind of model is loaded and asked, through the package of the user's environment that knows it."""

from __future__ import annotations

import os
import pickle
import warnings
from typing import Any, Callable

from . import payload
from .http import Refused
from .models import Loaded, NotUsable, Tensor

# Flavours whose result for a row depends on that row alone, so that rows of several requests may be joined.
ROW_BY_ROW = ("sklearn", "xgboost", "lightgbm", "catboost", "onnx", "keras", "tensorflow", "pytorch", "h2o")


def load(path: str, kind: str) -> Loaded:
    """Raises NotUsable when the package is missing; whatever the package raises."""
    try:
        return LOADERS[kind](path)
    except ModuleNotFoundError as error:
        raise NotUsable(
            f"The model {path} is one of {kind}, and the environment lacks the package {error.name!r}."
        ) from error


def _sklearn(path: str) -> Loaded:
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    try:
        import joblib  # pyright: ignore[reportMissingImports]
    except ImportError:
        with open(path, "rb") as file:
            model = pickle.load(file)
    else:
        model = joblib.load(path)
    if not callable(getattr(model, "predict", None)):
        raise NotUsable(f"{path} holds a {type(model).__name__}, which has no predict().")
    names = getattr(model, "feature_names_in_", None)
    width = getattr(model, "n_features_in_", None)
    rows = _rows(width, None if names is None else list(names), frames=names is not None)
    return Loaded("sklearn", model.predict, rows, [Tensor("input", "FP64", (-1, width or -1))])


def _xgboost(path: str) -> Loaded:
    import xgboost  # pyright: ignore[reportMissingImports]

    booster = xgboost.Booster()
    booster.load_model(path)
    width = booster.num_features()
    names = booster.feature_names

    def predict(rows: Any) -> Any:
        return booster.inplace_predict(rows, validate_features=False)

    return Loaded("xgboost", predict, _rows(width, names), [Tensor("input", "FP64", (-1, width))])


def _lightgbm(path: str) -> Loaded:
    import lightgbm  # pyright: ignore[reportMissingImports]

    booster = lightgbm.Booster(model_file=path)
    width = booster.num_feature()
    rows = _rows(width, booster.feature_name())
    return Loaded("lightgbm", booster.predict, rows, [Tensor("input", "FP64", (-1, width))])


_ONNX = {
    "tensor(float)": ("float32", "FP32"),
    "tensor(double)": ("float64", "FP64"),
    "tensor(int64)": ("int64", "INT64"),
    "tensor(int32)": ("int32", "INT32"),
    "tensor(bool)": ("bool", "BOOL"),
    "tensor(string)": ("object", "BYTES"),
}


def _onnx(path: str) -> Loaded:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
    taken, given = session.get_inputs(), [output.name for output in session.get_outputs()]
    if len(taken) != 1 or taken[0].type not in _ONNX:
        found = ", ".join(f"{one.name} ({one.type})" for one in taken)
        raise NotUsable(f"{path} takes {found}; without a script a model takes one tensor.")
    dtype, datatype = _ONNX[taken[0].type]
    shape = [size if isinstance(size, int) else -1 for size in taken[0].shape]
    joins = not shape or shape[0] == -1

    def predict(rows: Any) -> Any:
        results = session.run(given, {taken[0].name: rows.astype(dtype)})
        return results[0] if len(given) == 1 else dict(zip(given, results))

    width = shape[1] if len(shape) == 2 and shape[1] > 0 else None
    tensor = Tensor(taken[0].name, datatype, shape)
    return Loaded("onnx", predict, _rows(width, None, dimensions=len(shape) or None), [tensor], joins)


def _mlflow(path: str) -> Loaded:
    import mlflow.pyfunc  # pyright: ignore[reportMissingImports]
    from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]
    from mlflow.utils import proto_json_utils as read  # pyright: ignore[reportMissingImports]

    model = mlflow.pyfunc.load_model(path)
    schema = model.metadata.get_input_schema()
    flavours = [name for name in model.metadata.flavors if name != "python_function"]
    columns = None if schema is None or schema.is_tensor_spec() else [c for c in schema.input_names() if c]

    def to_rows(body: payload.Body) -> Any:
        try:
            return parsed(body)
        except MlflowException as error:
            raise Refused(400, str(error)[:2000]) from error
        except (ValueError, TypeError, KeyError) as error:
            raise Refused(400, f"{body.form!r} could not be read: {error}"[:2000]) from error

    def parsed(body: payload.Body) -> Any:
        if body.form in ("dataframe_split", "dataframe_records"):
            return read.dataframe_from_parsed_json(body.value, body.form[len("dataframe_") :], schema)
        if body.form == "instances":
            return read.parse_tf_serving_input({"instances": body.value}, schema)
        value = body.value
        if isinstance(value, str):
            return value  # as it is: mlflow would take the name of a file for its content
        if body.form == "inputs":
            return read.parse_inputs_data(value, schema)
        return azures(payload.table(body))

    def azures(table: payload.Table) -> Any:
        """input_data: rows, columns, or a frame as pandas splits it."""
        names = table.columns or columns
        if schema is not None and schema.is_tensor_spec() and table.columns is None:
            return read.parse_inputs_data(table.rows, schema)
        if names is None:
            import numpy  # pyright: ignore[reportMissingImports]

            return numpy.asarray(table.rows)
        split = {"columns": names, "data": table.rows}
        return read.dataframe_from_parsed_json(split, "split", schema)

    def with_params(rows: Any, params: Any) -> Any:
        return model.predict(rows, params=params)

    joins = any(name in ROW_BY_ROW for name in flavours)
    tensors = _tensors(schema)
    return Loaded("mlflow", model.predict, to_rows, tensors, joins, with_params)


_MLFLOW = {
    "double": "FP64",
    "float": "FP32",
    "long": "INT64",
    "integer": "INT32",
    "boolean": "BOOL",
    "float64": "FP64",
    "float32": "FP32",
    "int64": "INT64",
    "int32": "INT32",
}


def _tensors(schema: Any) -> list[Tensor]:
    if schema is None:
        return []
    if schema.is_tensor_spec():
        return [
            Tensor(one.name or "input", _MLFLOW.get(str(one.type), "BYTES"), one.shape)
            for one in schema.inputs
        ]
    names = (getattr(one.type, "name", str(one.type)) for one in schema.inputs)
    types = [_MLFLOW.get(name, "BYTES") for name in names]
    return [Tensor(one.name or f"input-{i}", types[i], (-1,)) for i, one in enumerate(schema.inputs)]


def _rows(
    width: int | None, names: list[str] | None, frames: bool = False, dimensions: int | None = 2
) -> Callable[[payload.Body], Any]:
    """-> what makes an array of a body: of `dimensions`, `width` wide, its columns in the order of `names`.

    `frames`: a body that names its columns becomes a frame, for a model that was trained on one.
    """
    import numpy  # pyright: ignore[reportMissingImports]

    def to_rows(body: payload.Body) -> Any:
        table = payload.table(body)
        columns = table.columns
        try:
            rows = numpy.asarray(table.rows)
        except ValueError:
            raise Refused(400, "The rows differ in length, or hold lists among numbers.") from None
        if not rows.size:
            raise Refused(400, "The input has no rows.")
        if dimensions is not None and rows.ndim != dimensions:
            raise Refused(
                400,
                f"The input has {rows.ndim} dimensions; the model takes {dimensions}, as [[1], [2]] has 2.",
            )
        if columns is not None and names is not None and [str(name) for name in columns] != names:
            rows = rows[:, _order(columns, names)]
            columns = names
        if width is not None and rows.shape[1] != width:
            raise Refused(400, f"The rows have {rows.shape[1]} columns; the model takes {width}.")
        if rows.dtype == object and columns is None and not frames:
            raise Refused(400, "The rows hold values that are no numbers.")
        if frames and columns is not None:
            import pandas  # pyright: ignore[reportMissingImports]

            return pandas.DataFrame(rows, columns=columns).infer_objects()
        return rows

    return to_rows


def _order(columns: list[Any], names: list[str]) -> list[int]:
    at = {str(name): i for i, name in enumerate(columns)}
    missing = [name for name in names if name not in at]
    if missing:
        raise Refused(400, f"The input lacks columns of the model: {', '.join(missing[:10])}.")
    return [at[name] for name in names]


LOADERS: dict[str, Callable[[str], Loaded]] = {
    "sklearn": _sklearn,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "onnx": _onnx,
    "mlflow": _mlflow,
}


def name_of(path: str) -> str:
    """The model's name for /v2: its file or folder without an ending."""
    return os.path.splitext(os.path.basename(os.path.normpath(path)))[0] or "model"
