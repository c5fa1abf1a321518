"""Errors in the blob service's shape: a code that clients switch on, a sentence, and XML."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidemill.domain.errors import TidemillError

_STATUS = {
    "AppendPositionConditionNotMet": 412,
    "AuthenticationFailed": 403,
    "AuthorizationFailure": 403,
    "AuthorizationPermissionMismatch": 403,
    "AuthorizationProtocolMismatch": 403,
    "AuthorizationResourceTypeMismatch": 403,
    "AuthorizationServiceMismatch": 403,
    "AuthorizationSourceIPMismatch": 403,
    "BlobAlreadyExists": 409,
    "BlobNotFound": 404,
    "CannotVerifyCopySource": 404,
    "ConditionNotMet": 412,
    "ContainerNotFound": 404,
    "InternalError": 500,
    "InvalidAuthenticationInfo": 401,
    "InvalidRange": 416,
    "MaxBlobSizeConditionNotMet": 412,
    "MissingContentLengthHeader": 411,
    "NoAuthenticationInformation": 401,
    "NotImplemented": 501,
    "ResourceNotFound": 404,
    "SourceConditionNotMet": 412,
    "UnsupportedHttpVerb": 405,
}


@dataclass(slots=True)
class StorageError(Exception):
    """`status` follows from the code (400 where the table has none) unless given."""

    code: str
    message: str
    status: int = 0
    more: dict[str, str] = field(default_factory=dict)  # further XML elements
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.status = self.status or _STATUS.get(self.code, 400)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class ClientGone(Exception):
    """The client closed the connection before its body was whole."""


def from_domain(error: TidemillError) -> StorageError:
    return StorageError(error.code, error.message, error.status)


def authentication_failed(detail: str) -> StorageError:
    """403 with Azure's AuthenticationErrorDetail."""
    return StorageError(
        "AuthenticationFailed",
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed "
        "correctly including the signature.",
        more={"AuthenticationErrorDetail": detail},
    )


def permission_mismatch() -> StorageError:
    return StorageError(
        "AuthorizationPermissionMismatch",
        "This request is not authorized to perform this operation using this permission.",
    )


def not_offered(what: str) -> StorageError:
    return StorageError("NotImplemented", f"{what} is not offered by Tidemill's blob service.")


def invalid_header(name: str, value: str, rule: str) -> StorageError:
    return StorageError(
        "InvalidHeaderValue",
        f"The value {value[:80]!r} of header {name} is not valid: {rule}.",
        more={"HeaderName": name, "HeaderValue": value[:200]},
    )


def invalid_query(name: str, value: str, rule: str) -> StorageError:
    return StorageError(
        "InvalidQueryParameterValue",
        f"The value {value[:80]!r} of query parameter {name} is not valid: {rule}.",
        more={"QueryParameterName": name, "QueryParameterValue": value[:200], "Reason": rule},
    )
