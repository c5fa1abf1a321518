"""/swagger.json, versions 2, 3 and 3.1: the user's file, or made from inference-schema decorators."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Callable

from . import answers, jsonio
from .answers import Answer
from .log import Log
from .script import Script, Target
from .settings import Settings

# version -> (other names, version of inference-schema, files of the user's that are taken first)
_VERSIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "2": (("2", "2.0"), ("swagger.json", "swagger2.json")),
    "3": (("3", "3.0"), ("swagger3.json",)),
    "3.1": (("3.1",), ("swagger3.1.json",)),
}
_ANYTHING = {"type": "object", "example": {}}


def of(settings: Settings, target: Target, log: Log) -> Callable[[str], Answer]:
    """-> what answers for a version, as the query gives it."""
    made: dict[str, bytes] = {}
    for version, (names, files) in _VERSIONS.items():
        document = _users(settings, files, log) or _generated(settings, target, version, names)
        if document is not None:
            body = jsonio.dumps(document)
            made.update((name, body) for name in names)
    supported = ", ".join(version for version in _VERSIONS if version in made)
    known = {name for names, _ in _VERSIONS.values() for name in names}

    def answer(version: str) -> Answer:
        if version not in known:
            text = "Swagger version [{}] is not valid. Supported versions: [{}]."
            return answers.error(404, text.format(version[:20], supported))
        if version not in made:
            text = f"Swagger version [{version}] is not supported for the scoring script."
            return answers.error(404, f"{text} Supported swagger versions: [{supported}].")
        return Answer(200, made[version])

    return answer


def _users(settings: Settings, files: tuple[str, ...], log: Log) -> dict[str, Any] | None:
    for name in files:
        path = os.path.join(settings.app_root, name)
        try:
            with open(path, encoding="utf-8") as file:
                return dict(json.load(file))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            log.warning("%s is not used for /swagger.json: %s", path, error)
    return None


def _generated(
    settings: Settings, target: Target, version: str, names: tuple[str, ...]
) -> dict[str, Any] | None:
    taken, given = _ANYTHING, _ANYTHING
    if isinstance(target, Script) and target.schema:
        schemas = sys.modules["inference_schema.schema_util"]
        if not set(names) & set(schemas.get_supported_versions(target.run)):
            return None
        taken, given = schemas.get_input_schema(target.run), schemas.get_output_schema(target.run)
    prefix = "/" + settings.path_prefix.strip("/") if settings.path_prefix.strip("/") else ""
    info = {
        "title": settings.service_name,
        "description": "API specification for the Azure Machine Learning service " + settings.service_name,
        "version": settings.service_version,
    }
    build = _two if version == "2" else _three
    document = build(prefix, taken, given)
    document["info"] = info
    if version == "3.1":
        document["openapi"] = "3.1.0"
    return document


_SECURITY = {
    "Bearer": {
        "type": "apiKey",
        "name": "Authorization",
        "in": "header",
        "description": "For example: Bearer abc123",
    }
}
_ERROR = {"type": "object", "properties": {"message": {"type": "string"}}}
_HEALTHY = "If service is up and running, this response will be returned with the content 'Healthy'"
_SCORED = "The service processed the input correctly and provided a result prediction, if applicable."
_FAILED = "The service failed to execute due to an error."
_OPERATIONS = {
    "/": (
        "get",
        "ServiceHealthCheck",
        "Simple health check endpoint to ensure the service is up at any given point.",
    ),
    "/score": ("post", "RunMLService", "Run web service's model and get the prediction output"),
    "/swagger.json": ("get", "GetSwaggerSpec", "Get the Swagger specification."),
}


def _paths(prefix: str, extra: dict[str, dict[str, Any]]) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for path, (method, operation, description) in _OPERATIONS.items():
        paths[prefix + path] = {method: {"operationId": operation, "description": description, **extra[path]}}
    return paths


def _two(prefix: str, taken: Any, given: Any) -> dict[str, Any]:
    def responses(description: str, schema: Any) -> dict[str, Any]:
        error = {"description": _FAILED, "schema": {"$ref": "#/definitions/ErrorResponse"}}
        return {"200": {"description": description, "schema": schema}, "default": error}

    text = {"type": "string"}
    version = {"name": "version", "in": "query", "required": False, "type": "integer", "enum": [2, 3]}
    payload = {
        "name": "serviceInputPayload",
        "in": "body",
        "description": "The input payload for executing the real-time machine learning service.",
        "schema": {"$ref": "#/definitions/ServiceInput"},
    }
    healthy = responses(_HEALTHY, text)
    healthy["200"]["examples"] = {"application/json": "Healthy"}
    return {
        "swagger": "2.0",
        "schemes": ["https"],
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "securityDefinitions": _SECURITY,
        "paths": _paths(
            prefix,
            {
                "/": {"responses": healthy},
                "/score": {
                    "security": [{"Bearer": []}],
                    "parameters": [payload],
                    "responses": responses(_SCORED, {"$ref": "#/definitions/ServiceOutput"}),
                },
                "/swagger.json": {
                    "parameters": [version],
                    "responses": responses("The Swagger specification.", text),
                },
            },
        ),
        "definitions": {"ServiceInput": taken, "ServiceOutput": given, "ErrorResponse": _ERROR},
    }


def _three(prefix: str, taken: Any, given: Any) -> dict[str, Any]:
    def content(kind: str, schema: Any) -> dict[str, Any]:
        return {"content": {kind: {"schema": schema}}}

    def responses(description: str, found: dict[str, Any]) -> dict[str, Any]:
        error = content("application/json", {"$ref": "#/components/schemas/ErrorResponse"})
        return {"200": {"description": description, **found}, "default": {"description": _FAILED, **error}}

    version = {
        "name": "version",
        "in": "query",
        "required": False,
        "schema": {"type": "integer", "enum": [2, 3]},
    }
    body = {
        "description": "The input payload for executing the real-time machine learning service.",
        **content("application/json", {"$ref": "#/components/schemas/ServiceInput"}),
    }
    scored = content("application/json", {"$ref": "#/components/schemas/ServiceOutput"})
    healthy = content("text/plain", {"type": "string", "example": "Healthy"})
    return {
        "openapi": "3.0.3",
        "security": [{"Bearer": []}],
        "paths": _paths(
            prefix,
            {
                "/": {"responses": responses(_HEALTHY, healthy)},
                "/score": {
                    "security": [{"Bearer": []}],
                    "requestBody": body,
                    "responses": responses(_SCORED, scored),
                },
                "/swagger.json": {
                    "parameters": [version],
                    "responses": responses(
                        "The Swagger specification.", content("text/plain", {"type": "string"})
                    ),
                },
            },
        ),
        "components": {
            "schemas": {"ServiceInput": taken, "ServiceOutput": given, "ErrorResponse": _ERROR},
            "securitySchemes": _SECURITY,
        },
    }
