"""Services of a job: programs that run beside its command, in its sandbox, for whoever looks inside.

Types and names are Azure's (`JobService` of its REST description). A program listens on the job's own
loopback and is reached through `tidemill port-forward`. What cannot be started says why and harms nothing
else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

from tidemill.domain.errors import InvalidRequest

JUPYTER, SSH, TENSORBOARD, VSCODE, CUSTOM = "JupyterLab", "SSH", "TensorBoard", "VSCode", "Custom"
TYPES = (JUPYTER, SSH, TENSORBOARD, VSCODE, CUSTOM)
OURS = ("Studio", "Tracking", "RayDashboard")  # of a fetched job that is sent back
ASKED = ("jobServiceType", "port", "nodes", "properties")  # what of an entry is the user's
USUAL = {JUPYTER: 8888, TENSORBOARD: 6006, VSCODE: 8080}
FOLDER = ".services"  # in a job's directory: their logs and keys
MOST = 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class JobService:
    """`port` 0: the usual one, or the next that is free. `log_dir`: of TensorBoard."""

    name: str
    type: str
    port: int = 0
    all_nodes: bool = False
    log_dir: str = ""


@dataclass(frozen=True, slots=True)
class Placed:
    """A service on one node of its job. `port` 0: it has none (SSH)."""

    service: JobService
    node: int
    port: int

    @property
    def log(self) -> str:
        """Below the job's directory."""
        return f"{FOLDER}/{self.service.name}-{self.node}.log"

    @property
    def key(self) -> str:
        """The file with the word that its browser must give; "" where there is none."""
        kept = self.service.type in (JUPYTER, VSCODE)
        return f"{FOLDER}/{self.service.name}-{self.node}.key" if kept else ""


def asked_for(raw: Any) -> dict[str, dict[str, Any]]:
    """A job's services as they were asked for: of a fetched job, neither ours nor how they were."""
    given = {name: _object(entry) for name, entry in _object(raw).items()}
    return {
        name: {key: entry[key] for key in ASKED if key in entry}
        for name, entry in given.items()
        if entry.get("jobServiceType") not in OURS
    }


def read_services(raw: Mapping[str, Any] | None) -> tuple[JobService, ...]:
    """Of a job's ARM properties. Raises InvalidRequest (target: the property)."""
    found: list[JobService] = []
    for name, given in (raw or {}).items():
        where = f"properties.services.{name}"
        entry = _object(given)
        asked = str(entry.get("jobServiceType") or CUSTOM)
        if asked in OURS:
            continue
        kind = next((kind for kind in TYPES if kind.lower() == asked.lower().replace("_", "")), "")
        if not kind:
            raise InvalidRequest(
                f"Service {name!r} has the type {asked!r}; there are {', '.join(TYPES)}.",
                target=f"{where}.jobServiceType",
            )
        if not _NAME.match(name):
            raise InvalidRequest(
                f"A service's name has letters, digits, '-' and '_', at most 64: {name[:80]!r} is none.",
                target=where,
            )
        properties = _object(entry.get("properties"))
        service = JobService(
            name,
            kind,
            _port(entry.get("port"), name, kind, where),
            bool(entry.get("nodes")),
            str(properties.get("logDir") or ""),
        )
        found.append(service)
    if len(found) > MOST:
        raise InvalidRequest(
            f"A job may have {MOST} services, not {len(found)}.", target="properties.services"
        )
    return tuple(found)


def _object(value: Any) -> Mapping[str, Any]:
    """{} for what is none."""
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def _port(given: Any, name: str, kind: str, where: str) -> int:
    if given is None and kind == CUSTOM:
        raise InvalidRequest(
            f"Service {name!r} is a program of the job's own: say with 'port' where it will listen.",
            target=f"{where}.port",
        )
    if given is None or kind == SSH:
        return 0
    if type(given) is not int or not 1024 <= given <= 65535:
        raise InvalidRequest(
            f"Service {name!r} has the port {given!r}: it must be from 1024 to 65535.", target=f"{where}.port"
        )
    return given


def placed(services: Collection[JobService], nodes: int, taken: Collection[int] = ()) -> tuple[Placed, ...]:
    """Where each runs. The nodes of a job share one loopback, so each service has a port of its own there:
    the wanted one or the next free. A custom one is the job's to start, at the port that it names."""
    used = {*taken, *(service.port for service in services if service.type == CUSTOM)}
    found: list[Placed] = []
    for service in services:
        for node in range(nodes if service.all_nodes else 1):
            port = service.port
            if service.type in USUAL:
                port = port or USUAL[service.type]
                while port in used:
                    port += 1
                used.add(port)
            found.append(Placed(service, node, port))
    return tuple(found)


def command(place: Placed, root: str) -> tuple[str, ...]:
    """What starts it in the job whose directory is `root`; () where nothing is to be started."""
    service = place.service
    scripts = {JUPYTER: _JUPYTER, TENSORBOARD: _TENSORBOARD, VSCODE: _VSCODE}
    if service.type not in scripts:
        return ()
    more = service.log_dir or "." if service.type == TENSORBOARD else f"{root}/{place.key}"
    return ("sh", "-c", scripts[service.type], service.name, str(place.port), more)


# $1 is the port, $2 the file for the key or the folder of logs. The last line that is written is the reason.
_KEY = """
umask 077
python -c 'import secrets; print(secrets.token_hex(16))' > "$2.new" && mv "$2.new" "$2" || exit 1
umask 022
"""
_JUPYTER = (
    """
if ! python -c 'import jupyterlab' 2>/dev/null; then
    echo "the environment has no jupyterlab: add jupyterlab to its pip list"; exit 127
fi
"""
    + _KEY
    + """
JUPYTER_TOKEN=$(cat "$2") exec python -m jupyterlab --no-browser --ip=127.0.0.1 --port="$1" \\
    --ServerApp.port_retries=0
"""
)
_TENSORBOARD = """
if ! python -c 'import tensorboard' 2>/dev/null; then
    echo "the environment has no tensorboard: add tensorboard to its pip list"; exit 127
fi
exec python -m tensorboard.main --host 127.0.0.1 --port "$1" --logdir "$2"
"""
_VSCODE = (
    """
if ! command -v code-server >/dev/null 2>&1; then
    echo "the environment has no code-server: use an image that has it on its PATH"; exit 127
fi
"""
    + _KEY
    + """
PASSWORD=$(cat "$2") exec code-server --bind-addr "127.0.0.1:$1" --auth password \\
    --disable-telemetry --disable-update-check .
"""
)
