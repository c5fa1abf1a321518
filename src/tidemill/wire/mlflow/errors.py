"""MLflow's error body, `{"error_code","message"}`, and the codes its clients know."""

from __future__ import annotations

from starlette.responses import Response

from tidemill.domain.errors import TidemillError
from tidemill.wire.http import json_response

PREFIX = "/mlflow/"  # every path below it is answered in MLflow's shape

# MLflow's codes with the status that MLflow answers them with.
_STATUS = {
    "INVALID_PARAMETER_VALUE": 400,
    "BAD_REQUEST": 400,
    "RESOURCE_ALREADY_EXISTS": 400,
    "RESOURCE_DOES_NOT_EXIST": 404,
    "ENDPOINT_NOT_FOUND": 404,
    "RESOURCE_CONFLICT": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
}
_CODES = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    405: "ENDPOINT_NOT_FOUND",
    409: "RESOURCE_CONFLICT",
    413: "INVALID_PARAMETER_VALUE",
    501: "NOT_IMPLEMENTED",
    507: "RESOURCE_EXHAUSTED",
}


def mlflow_error(error: TidemillError) -> Response:
    code = error.code if error.code in _STATUS else _CODES.get(error.status, "INTERNAL_ERROR")
    return json_response({"error_code": code, "message": error.message}, _STATUS.get(code, error.status))
