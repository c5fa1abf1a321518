"""Looking inside a running job or a node: what a client asks for on the line, and how long it may stay.

Messages of a session (`exec`): text is JSON, bytes are a stream's. The client begins with
{"command": [word, …], "terminal": [rows, columns] or null, "term": "xterm"}; then come bytes for standard
input, and {"resize": [rows, columns]} or {"end": true} (no more input). The server sends bytes of which the
first is the stream (1 or 2), and at last {"exit": code} or {"error": {"code", "message"}}. A port's bytes are
sent as they are, both ways; {"end": true} says that no more will come.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from tidemill.domain.errors import InvalidRequest

ACTION = "Microsoft.MachineLearningServices/workspaces/jobs/exec/action"
# Azure's own for a compute's terminal and notebooks: the roles that may run anything there by a job, or look
# after computes, have it by their wildcards; a Reader has not.
NODE_ACTION = "Microsoft.MachineLearningServices/workspaces/computes/applicationaccess/action"
GRANTING = "Microsoft.Authorization/roleAssignments/write"

IDLE_S = 30 * 60.0  # no byte either way
MOST_S = 12 * 3600.0
CHECK_S = 2.0  # a role that was taken away ends a session within this

MOST_VISITS = 8  # shells on one node at once
USE_S = 30.0  # while one is open its node counts as used, at least this often

MAX_WORDS, MAX_COMMAND, MAX_SIDE = 1000, 100_000, 1000
NO_PORT = "A port is a whole number from 1 to 65535"


@dataclass(frozen=True, slots=True)
class Begin:
    """`command` empty: a shell. `size`: (rows, columns) of the terminal, None: none is wanted."""

    command: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    term: str = ""


@dataclass(frozen=True, slots=True)
class Resize:
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class EndOfInput: ...


def begin(text: str) -> Begin:
    """The first message. Raises InvalidRequest naming what is wrong with it."""
    message = _object(text)
    command: Any = message.get("command") or []
    if not _is_command(command):
        raise _bad_command("must be a list")
    given = message.get("terminal")
    term = message.get("term") or ""
    return Begin(
        tuple(cast(list[str], command)),
        None if given is None else _size(given, "terminal"),
        term if isinstance(term, str) else "",
    )


def command_line(given: Any) -> tuple[str, ...]:
    """A command as Azure's `exec` takes it: one line, taken apart as a shell would. None, "": a shell. Raises
    InvalidRequest."""
    if given is None:
        return ()
    if not isinstance(given, str) or len(given) > MAX_COMMAND:
        raise _bad_command("must be one line")
    try:
        words = shlex.split(given)
    except ValueError as error:
        message = f"command {given!r} cannot be read: {str(error)[:1].lower()}{str(error)[1:]}."
        raise InvalidRequest(message, target="command") from None
    if not _is_command(words):
        raise _bad_command("must be one line")
    return tuple(words)


def control(text: str) -> Resize | EndOfInput:
    """A later message. Raises InvalidRequest."""
    message = _object(text)
    if "resize" in message:
        return Resize(*_size(message["resize"], "resize"))
    if message.get("end") is True:
        return EndOfInput()
    raise InvalidRequest('A message is {"resize": [rows, columns]} or {"end": true}; others have no meaning.')


def port(text: str) -> int:
    """Raises InvalidRequest."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise InvalidRequest(f"{NO_PORT}, not {text[:20]!r}.", target="port")
    return int(text)


def overdue(now: float, began: float, last: float) -> str:
    """Why a session must end now ("" if it need not). Seconds of one clock; `last`: when a byte passed."""
    if now - last > IDLE_S:
        return f"Nothing passed for {IDLE_S / 60:.0f} minutes."
    if now - began > MOST_S:
        return f"A session may last {MOST_S / 3600:.0f} hours."
    return ""


def use_interval(idle_us: int) -> float:
    """Seconds between two notes that somebody works on a node that closes after being idle for `idle_us`."""
    return min(max(idle_us / 3e6, 0.1), USE_S)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest("A text message must be a JSON object.")
    return cast(dict[str, Any], value)


def _is_command(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    words = cast(list[Any], value)
    if len(words) > MAX_WORDS or not all(isinstance(w, str) and "\0" not in w for w in words):
        return False
    return sum(map(len, words)) <= MAX_COMMAND and (not words or bool(words[0]))


def _bad_command(what: str) -> InvalidRequest:
    return InvalidRequest(
        f"command {what} of at most {MAX_WORDS} words without NUL, the first of them not empty, and at most "
        f"{MAX_COMMAND} characters in all.",
        target="command",
    )


def _size(value: Any, name: str) -> tuple[int, int]:
    sides = cast(Sequence[Any], value) if isinstance(value, list) else ()
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
        raise InvalidRequest(f"{name} must be [rows, columns], each from 1 to {MAX_SIDE}.", target=name)
    return sides[0], sides[1]
