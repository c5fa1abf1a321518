"""JSON. orjson where it can be imported, with the answers and the errors of `json`."""

from __future__ import annotations

import json
from typing import Any

try:
    import orjson  # pyright: ignore[reportMissingImports]
except ImportError:
    orjson = None

NAME = "json" if orjson is None else "orjson"


def loads(data: bytes) -> Any:
    """Raises ValueError. NaN and Infinity are read, as `json` reads them."""
    if orjson is not None:
        try:
            return orjson.loads(data)
        except ValueError:
            pass  # `json` decides: it reads NaN, and its errors name line and column
    return json.loads(data)


if orjson is None:

    def dumps(value: Any) -> bytes:
        """Raises TypeError, ValueError for what JSON cannot hold."""
        return json.dumps(value).encode()

else:
    _fast = orjson.dumps
    _STRICT = (
        orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
    )

    def dumps(value: Any) -> bytes:
        """Raises TypeError, ValueError for what JSON cannot hold."""
        try:
            data = _fast(value, None, _STRICT)
        except TypeError:
            return json.dumps(value).encode()
        if b"null" in data:  # orjson writes NaN as null, silently: an answer that means something else
            return json.dumps(value).encode()
        return data
