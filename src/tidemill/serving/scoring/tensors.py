"""Tensors of the Open Inference Protocol, and their errors, {"error": …}."""

from __future__ import annotations

from typing import Any, Callable

from . import answers, inputs, jsonio
from .answers import Answer
from .http import Refused
from .payload import Body, plain
from .request import Request

MODEL_VERSION = "1"
_KINDS = {"f": "FP", "i": "INT", "u": "UINT"}
_NUMPY = {
    "BOOL": "bool",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "BYTES": "object",
}


def error(status: int, text: str) -> Answer:
    return Answer(status, jsonio.dumps({"error": text}))


def read(request: Request, name: str) -> tuple[Body, Callable[[Any], Answer]]:
    """-> (rows of an infer request, what makes its answer of the model's result). Raises Refused."""
    body = inputs.json_object(request)
    tensors = body.get("inputs")
    if not isinstance(tensors, list) or not tensors:
        raise Refused(400, "The request has no inputs.")
    arrays = [(_name_of(tensor), _array(tensor)) for tensor in tensors]
    wanted = [str(output.get("name")) for output in body.get("outputs") or [] if isinstance(output, dict)]
    request_id = body.get("id")

    def answer(result: Any) -> Answer:
        outputs = [_output(output, value) for output, value in _results(result)]
        if wanted:
            outputs = [output for output in outputs if output["name"] in wanted]
        said: dict[str, Any] = {"model_name": name, "model_version": MODEL_VERSION, "outputs": outputs}
        if request_id is not None:
            said["id"] = str(request_id)
        return Answer(200, jsonio.dumps(said), answers.JSON, answers.DONE)

    return _rows(arrays), answer


def _rows(arrays: list[tuple[str, Any]]) -> Body:
    """One tensor is the rows; several are the columns of a table."""
    if len(arrays) == 1 and arrays[0][1].ndim != 1:
        return Body("data", arrays[0][1].tolist(), None)
    lengths = {len(array) for _, array in arrays}
    if len(lengths) > 1 or any(
        array.ndim > 2 or (array.ndim == 2 and array.shape[1] != 1) for _, array in arrays
    ):
        raise Refused(400, "Several inputs are columns: each a tensor of the same number of rows.")
    return Body("data", {name: array.reshape(-1).tolist() for name, array in arrays}, None)


def _name_of(tensor: Any) -> str:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise Refused(400, "An input has no name.")
    return tensor["name"]


def _array(tensor: dict[str, Any]) -> Any:
    import numpy  # pyright: ignore[reportMissingImports]

    name, shape, datatype = tensor["name"], tensor.get("shape"), tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in _NUMPY:
        raise Refused(
            400, f"The input {name!r} has the datatype {datatype!r}, which is none of {', '.join(_NUMPY)}."
        )
    whole = isinstance(shape, list) and shape and all(type(size) is int and size >= 0 for size in shape)
    if not whole:
        raise Refused(400, f"The input {name!r} has the shape {shape!r}, which is no list of sizes.")
    try:
        return numpy.asarray(tensor.get("data"), dtype=_NUMPY[datatype]).reshape(shape)
    except (ValueError, TypeError, OverflowError):
        raise Refused(
            400, f"The data of the input {name!r} does not fit {datatype} of shape {shape}."
        ) from None


def _results(result: Any) -> list[tuple[str, Any]]:
    if isinstance(result, dict):
        return [(str(name), value) for name, value in result.items()]
    if hasattr(result, "columns"):
        return [(str(name), result[name]) for name in result.columns]
    return [("predict", result)]


def _output(name: str, value: Any) -> dict[str, Any]:
    import numpy  # pyright: ignore[reportMissingImports]

    array = numpy.asarray(value)
    data = plain(array.reshape(-1))
    if array.dtype.kind == "b":
        datatype = "BOOL"
    elif array.dtype.kind in _KINDS:
        datatype = f"{_KINDS[array.dtype.kind]}{array.dtype.itemsize * 8}"
    else:
        datatype, data = "BYTES", [one if isinstance(one, str) else str(one) for one in data]
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": data}
