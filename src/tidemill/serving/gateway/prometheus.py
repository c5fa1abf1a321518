"""What Prometheus reads of the gateway (its text format 0.0.4): `GET /metrics` with the token that lies
beside the route table. For who may read the home: the names of all endpoints are in it."""

from __future__ import annotations

import os
import secrets
from hmac import compare_digest
from pathlib import Path

from tidemill.serving.gateway.live import Live, LiveEndpoint
from tidemill.serving.gateway.metrics import Metrics

TARGET = b"/metrics"
TOKEN_FILE = "metrics.token"
KIND = "text/plain; version=0.0.4; charset=utf-8"
_NAMES = (
    ("tidemill_endpoint_requests_total", "counter", "Requests that ended, by status."),
    (
        "tidemill_endpoint_request_seconds",
        "histogram",
        "From the head of a request to the end of its answer.",
    ),
    (
        "tidemill_endpoint_in_flight",
        "gauge",
        "Requests under way, those that wait for an instance with them.",
    ),
    ("tidemill_endpoint_waiting", "gauge", "Requests that wait for an instance."),
    ("tidemill_endpoint_instances", "gauge", "Instances that requests are sent to."),
)


def token_of(folder: Path) -> str:
    """Made at the first start."""
    file = folder / TOKEN_FILE
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as made:
            made.write(token + "\n")
        return token


def may_read(authorization: bytes | None, token: str) -> bool:
    return authorization is not None and compare_digest(authorization, f"Bearer {token}".encode())


def text(live: Live) -> bytes:
    lines: dict[str, list[str]] = {name: [] for name, _, _ in _NAMES}
    for endpoint in {one.record.uid: one for one in live.endpoints.values()}.values():
        for deployment in endpoint.by_name.values():
            labels = _labels(endpoint, deployment.name)
            values = _values(deployment.metrics, labels)
            values["tidemill_endpoint_waiting"] = [f"{{{labels}}} {len(deployment.waiting)}"]
            values["tidemill_endpoint_instances"] = [f"{{{labels}}} {len(deployment.instances)}"]
            for name, found in values.items():
                lines[name] += [f"{name}{line}" for line in found]
    said: list[str] = []
    for name, kind, what in _NAMES:
        said += [f"# HELP {name} {what}", f"# TYPE {name} {kind}", *lines[name]]
    return ("\n".join(said) + "\n").encode()


def _values(metrics: Metrics, labels: str) -> dict[str, list[str]]:
    total = metrics.requests
    times = [f'_bucket{{{labels},le="{us / 1e6:g}"}} {count}' for us, count in metrics.below()]
    times += [f'_bucket{{{labels},le="+Inf"}} {total}', f"_sum{{{labels}}} {metrics.us / 1e6:.6f}"]
    return {
        "tidemill_endpoint_requests_total": [
            f'{{{labels},code="{status}"}} {count}' for status, count in sorted(metrics.by_status.items())
        ],
        "tidemill_endpoint_request_seconds": [*times, f"_count{{{labels}}} {total}"],
        "tidemill_endpoint_in_flight": [f"{{{labels}}} {metrics.in_flight}"],
    }


def _labels(endpoint: LiveEndpoint, deployment: str) -> str:
    _, group, workspace, name = endpoint.record.path.split("/")
    values = {"group": group, "workspace": workspace, "endpoint": name, "deployment": deployment}
    return ",".join(f'{label}="{_escaped(value)}"' for label, value in values.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
