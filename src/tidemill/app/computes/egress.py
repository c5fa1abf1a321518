"""What the jobs of a compute may reach besides this server.

A tag says it, because Azure's schema has no field that fits: `enableNodePublicIp` is on unless it is switched
off, and Tidemill's nodes are closed unless they are opened. Computes without the tag have what the home's
config.json says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidemill.app.rows.codec import decode_object
from tidemill.domain.errors import InvalidRequest
from tidemill.sandbox import egress

TAG = "tidemill.egress"


def check_line(line: object, what: str, where: str) -> str:
    """The line as it is. Raises InvalidRequest saying what is wrong with it."""
    if not isinstance(line, str):
        raise InvalidRequest(f"{what} is {line!r}: it must be text.", "InvalidEgress", where)
    try:
        egress.parse(line)
    except ValueError as error:
        raise InvalidRequest(f"{what} is {line!r}, but {error}.", "InvalidEgress", where) from None
    return line


def check_tags(tags: Mapping[str, Any], where: str) -> None:
    if tags.get(TAG) is not None:
        check_line(tags[TAG], f"Tag {TAG}", f"{where}.{TAG}")


def line_of(tags: bytes, default: str) -> str:
    """What holds for a node of a compute with these tags, as they are stored."""
    own = decode_object(tags).get(TAG)
    return default if own is None else str(own)
