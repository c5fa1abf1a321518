"""What the environment tells the scoring server. Azure's names where Azure has one."""

from __future__ import annotations

import os
from typing import Any, Mapping, NamedTuple

DEFAULT_PORT = 5001  # azureml-inference-server-http's


class SettingError(Exception):
    """The message names the variable, its value and what it may be."""


class Settings(NamedTuple):
    app_root: str
    entry_script: str
    source_dir: str
    model_dir: str
    model: str
    host: str
    port: int
    workers: int
    worker_timeout_s: float
    scoring_timeout_ms: float
    cors_origins: tuple[str, ...]
    log_level: str
    service_name: str
    service_version: str
    path_prefix: str
    state_file: str
    side: str
    max_body: int
    grace_s: float
    batch_size: int
    batch_wait_ms: float
    warmup: str
    server_version: str


VERSION = "tidemill-scoring/1"


def read(environ: Mapping[str, str]) -> Settings:
    """Raises SettingError."""
    origins = environ.get("AML_CORS_ORIGINS", "")
    return Settings(
        app_root=os.path.abspath(environ.get("AML_APP_ROOT") or os.getcwd()),
        entry_script=environ.get("AZUREML_ENTRY_SCRIPT", ""),
        source_dir=environ.get("AZUREML_SOURCE_DIRECTORY", ""),
        model_dir=environ.get("AZUREML_MODEL_DIR", ""),
        model=environ.get("TIDEMILL_SERVING_MODEL", ""),
        host=environ.get("TIDEMILL_SERVING_HOST") or "127.0.0.1",
        port=int(_number(environ, "AZUREML_SERVER_PORT", DEFAULT_PORT, 0, 65535)),
        workers=int(_number(environ, "WORKER_COUNT", 1, 1, 256)),
        worker_timeout_s=_number(environ, "WORKER_TIMEOUT", 300, 0, None),
        scoring_timeout_ms=_number(environ, "SCORING_TIMEOUT_MS", 3_600_000, 1, None),
        cors_origins=tuple(origin.strip() for origin in origins.split(",") if origin.strip()),
        log_level=_level(environ),
        service_name=environ.get("SERVICE_NAME") or "ML service",
        service_version=environ.get("SERVICE_VERSION") or "1.0",
        path_prefix=environ.get("SERVICE_PATH_PREFIX", ""),
        state_file=environ.get("TIDEMILL_SERVING_STATE", ""),
        side=environ.get("TIDEMILL_SERVING_SIDE", ""),
        max_body=int(_number(environ, "TIDEMILL_SERVING_MAX_BODY_BYTES", 128 << 20, 1, None)),
        grace_s=_number(environ, "TIDEMILL_SERVING_GRACE_S", 30, 0, None),
        batch_size=int(_number(environ, "TIDEMILL_SERVING_BATCH_SIZE", 32, 1, 65536)),
        batch_wait_ms=_number(environ, "TIDEMILL_SERVING_BATCH_WAIT_MS", 0, 0, 60_000),
        warmup=environ.get("TIDEMILL_SERVING_WARMUP", ""),
        server_version=_version(environ),
    )


def _number(environ: Mapping[str, str], name: str, default: float, low: float, high: float | None) -> float:
    text = environ.get(name, "")
    if not text:
        return default
    whole: Any = isinstance(default, int) and name not in _FRACTIONS
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = None
    if value is None or value != value or value < low or (high is not None and value > high):
        span = f"of {low:g} or more" if high is None else f"from {low:g} to {high:g}"
        raise SettingError(
            "{}={!r} is not a {}number {}.".format(name, text, "whole " if whole else "", span)
        )
    return value


_FRACTIONS = frozenset(
    ("WORKER_TIMEOUT", "SCORING_TIMEOUT_MS", "TIDEMILL_SERVING_GRACE_S", "TIDEMILL_SERVING_BATCH_WAIT_MS")
)
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def _level(environ: Mapping[str, str]) -> str:
    level = (environ.get("AZUREML_LOG_LEVEL") or "INFO").upper()
    if level not in LEVELS:
        raise SettingError("AZUREML_LOG_LEVEL={!r} is none of {}.".format(level, ", ".join(LEVELS)))
    return level


def _version(environ: Mapping[str, str]) -> str:
    """What the header x-ms-server-version says; empty: it is not sent."""
    if (environ.get("SERVER_VERSION_LOG_RESPONSE_ENABLED") or "true").lower() != "true":
        return ""
    return environ.get("HTTP_X_MS_SERVER_VERSION") or VERSION
