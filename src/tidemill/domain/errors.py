"""Errors that a user can meet: each carries a code, a sentence that names the fix, and the place.

The HTTP status lives here too because ARM's error table is part of the contract (a 404 must be a 404 in
every dialect); the wire only renders it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """One entry of ARM's `error.details`."""

    code: str
    message: str
    target: str | None = None


@dataclass(slots=True)
class TidemillError(Exception):
    """Base of every error shown to a user. `message` says what, where, why and the fix."""

    message: str
    code: str = "BadRequest"
    target: str | None = None
    details: tuple[ErrorDetail, ...] = field(default=())
    status: int = 400

    def __str__(self) -> str:
        return self.message


class InvalidRequest(TidemillError):
    """400: the request cannot be carried out as it is written."""


class Unauthenticated(TidemillError):
    """401: no token, an expired one, or one that this server did not sign."""

    def __init__(self, message: str, code: str = "AuthenticationFailed") -> None:
        super().__init__(message, code, status=401)


class Forbidden(TidemillError):
    """403: known caller, action not allowed at this scope."""

    def __init__(self, message: str, code: str = "AuthorizationFailed", target: str | None = None) -> None:
        super().__init__(message, code, target, status=403)


class NotFound(TidemillError):
    """404. ARM's code for a missing resource is `ResourceNotFound`."""

    def __init__(self, message: str, code: str = "ResourceNotFound", target: str | None = None) -> None:
        super().__init__(message, code, target, status=404)


class Conflict(TidemillError):
    """409: the name is taken by something else, or the state forbids the action."""

    def __init__(self, message: str, code: str = "Conflict", target: str | None = None) -> None:
        super().__init__(message, code, target, status=409)


class PreconditionFailed(TidemillError):
    """412: an If-Match / If-None-Match condition does not hold."""

    def __init__(self, message: str, code: str = "PreconditionFailed", target: str | None = None) -> None:
        super().__init__(message, code, target, status=412)


class OutOfSpace(TidemillError):
    """507: the disk of this home is full; nothing was written."""

    def __init__(self, message: str, code: str = "InsufficientStorage", target: str | None = None) -> None:
        super().__init__(message, code, target, status=507)


class NotOffered(TidemillError):
    """400: Azure has it, Tidemill does not. The message names what is missing."""

    def __init__(self, message: str, target: str | None = None) -> None:
        super().__init__(message, "NotOffered", target, status=400)
