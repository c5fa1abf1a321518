"""The bodies that models without a script take: MLflow's scoring protocol, and Azure's `input_data`.

{"input_data": …} (Azure), {"dataframe_split": …}, {"dataframe_records": …}, {"instances": …}, {"inputs": …}
(MLflow), {"data": …} or a bare list. Numbers, nothing of models, is known here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from . import inputs
from .http import Refused
from .request import Request

FORMS = ("input_data", "dataframe_split", "dataframe_records", "instances", "inputs", "data")


class Body(NamedTuple):
    """`form` is one of FORMS; `value` is what stands under it; `params` go to the model beside the input."""

    form: str
    value: Any
    params: Any


def read(request: Request) -> Body:
    """Raises Refused."""
    if request.method != "POST":
        raise Refused(405, "Method not allowed")
    body = inputs.json_body(request)
    if isinstance(body, list):
        return Body("data", body, None)
    if not isinstance(body, dict):
        raise Refused(400, "The body is neither a JSON object nor a list of rows.")
    found = [form for form in FORMS if form in body]
    if len(found) != 1:
        there = ", ".join(map(repr, list(body)[:10])) or "nothing"
        raise Refused(400, f"The body needs one of {', '.join(FORMS)}; it has {there}.")
    return Body(found[0], body[found[0]], body.get("params"))


class Table(NamedTuple):
    """`rows` in order; `columns` where the body names them."""

    columns: list[Any] | None
    rows: Any


def table(body: Body) -> Table:
    """Rows of one width, whatever the form. Raises Refused."""
    value = body.value
    if isinstance(value, dict) and "data" in value and set(value) <= {"columns", "index", "data"}:
        return Table(value.get("columns"), value["data"])
    if isinstance(value, dict):
        return _of_columns(value)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        columns = list(value[0])
        try:
            return Table(columns, [[record[name] for name in columns] for record in value])
        except (KeyError, TypeError):
            raise Refused(
                400, f"Not every record of {body.form!r} has the same fields as the first."
            ) from None
    if not isinstance(value, list):
        raise Refused(400, f"{body.form!r} is neither a list of rows nor columns.")
    return Table(None, value)


def _of_columns(value: dict[str, Any]) -> Table:
    columns = [column if isinstance(column, list) else [column] for column in value.values()]
    if len({len(column) for column in columns}) > 1:
        lengths = ", ".join(f"{name}: {len(column)}" for name, column in zip(value, columns))
        raise Refused(400, f"The columns differ in length ({lengths}).")
    return Table(list(value), [list(row) for row in zip(*columns)])


def plain(result: Any) -> Any:
    """As JSON has it: arrays as lists, frames as records."""
    if hasattr(result, "to_dict") and hasattr(result, "columns"):
        return result.to_dict(orient="records")
    if hasattr(result, "tolist"):
        return result.tolist()
    if isinstance(result, dict):
        return {name: plain(value) for name, value in result.items()}
    if isinstance(result, (list, tuple)):
        return [plain(value) for value in result]
    return result
