"""An instance of a deployment on its node: the scoring server, its model and its port.

Beside what every attempt's directory has: azureml-models/NAME/VERSION/…, scoring/server (the scoring server's
own files, so that an instance goes on with those that it was started with), scoring/state.json (its record).
"""

from __future__ import annotations

import importlib.util
import py_compile
import shutil
import socket
import tempfile
from functools import lru_cache
from pathlib import Path

import tidemill
from tidemill.app.assets.surroundings import View
from tidemill.app.computes import isolation
from tidemill.app.services import Services
from tidemill.data.blobstore import BlobStore
from tidemill.data.blobtree import safe_parts
from tidemill.data.staging import Going, clear
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.model import Attempt
from tidemill.domain.serving.model import Probe
from tidemill.domain.serving.service import MODELS, PORT, STATE_FILE, Container, PlannedService, Route
from tidemill.engines import base

SERVER = "scoring/server"
SOURCES = Path(tidemill.__file__).parent / "serving" / "scoring"
BACKOFF = base.RestartPolicy("always", first_s=0.5, cap_s=30.0, steady_s=30.0)


async def ports(s: Services, service: PlannedService, attempt: Attempt) -> tuple[int, ...]:
    """The one that the server listens on: always the same in a network of the node's own. Raises
    InvalidRequest."""
    (node_id,) = attempt.nodes
    node = await s.store.read(lambda read: read.node(node_id))
    network = isolation.limits_of(node).get("network") if node is not None else None
    own = network is not None and network.enforced
    if service.container is not None:
        if not own:
            raise InvalidRequest(
                "The environment's image has a server of its own, which needs a network of its own (its "
                "ports are fixed): this host gives nodes none. See: tidemill doctor",
                "NetworkMissing",
            )
        return (service.container.scoring.port,)
    return (PORT,) if own else free_ports(1)


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of the loopback that are free now; held together while choosing, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return tuple(item.getsockname()[1] for item in sockets)
    finally:
        for item in sockets:
            item.close()


def stage(blobs: BlobStore, service: PlannedService, root: Path, going: Going) -> None:
    """Blocks: call it in a thread. Can be repeated. Raises NotFound where the model is gone."""
    clear(root / SERVER)
    shutil.copytree(SOURCES, root / SERVER, ignore=shutil.ignore_patterns("__pycache__"))
    (root / SERVER / "__pycache__").mkdir()
    for name, code in _bytecode(SOURCES):
        (root / SERVER / "__pycache__" / name).write_bytes(code)
    model = service.model
    if model is None:
        return
    folder = root / model.folder
    clear(folder)
    folder.mkdir(parents=True)
    target = folder / safe_parts(model.name)[0] if model.name else folder
    blobs.copy_out(model.account, model.container, model.path, target, going=going)


@lru_cache(maxsize=1)
def _bytecode(sources: Path) -> tuple[tuple[str, bytes], ...]:
    """Of the scoring server, for this Python's version: an environment of that version starts it without
    compiling it first, which takes longer than all else that it does."""
    made: list[tuple[str, bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted(sources.glob("*.py")):
            name = Path(importlib.util.cache_from_source(source.name)).name
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(str(source), f"{folder}/{name}", doraise=True, invalidation_mode=mode)
            made.append((name, Path(folder, name).read_bytes()))
    return tuple(made)


def variables(service: PlannedService, root: str, port: int) -> dict[str, str]:
    """What the scoring server is told, by Azure's names where it has some."""
    told = {
        "AML_APP_ROOT": f"{root}/code",
        "AZUREML_ENTRY_SCRIPT": service.script,
        "AZUREML_SERVER_PORT": str(port),
        "TIDEMILL_SERVING_STATE": f"{root}/{STATE_FILE}",
        "TIDEMILL_SERVING_GRACE_S": f"{service.drain_s:g}",
    }
    model = service.model
    if service.container is not None:  # without code the image's own variables hold
        told = (
            {"AML_APP_ROOT": f"{root}/code", "AZUREML_ENTRY_SCRIPT": service.script} if service.script else {}
        )
        if model is not None:
            told["AZUREML_MODEL_DIR"] = f"{service.mount}{model.folder.removeprefix(MODELS)}"
    elif model is not None:
        told["AZUREML_MODEL_DIR"] = f"{root}/{model.folder}"
        if not service.script:
            told["TIDEMILL_SERVING_MODEL"] = f"{root}/{model.folder}/{model.name}".rstrip("/")
    return {name: value for name, value in told.items() if value}


def argv(view: View, service: PlannedService, root: str) -> tuple[str, ...]:
    """Our server by the Python that the environment has first in its path, or the image's own command. Raises
    InvalidRequest."""
    if service.container is not None:
        if not view.command:
            raise InvalidRequest(
                "The environment's image has neither an entry point nor a command: nothing of it can serve.",
                "EntryPointMissing",
            )
        return view.command
    find = 'exec "$(command -v python || command -v python3)" "$0"'
    return (view.shell, "-c", find, f"{root}/{SERVER}/main.py")


def shown_at(service: PlannedService, root: str) -> tuple[tuple[str, str], ...]:
    """Where models are found besides the instance's own directory."""
    if not service.mount or service.model is None:
        return ()
    return ((f"{root}/{MODELS}", service.mount),)


def service_of(service: PlannedService, port: int) -> base.Service:
    routes = service.container or Container(Route(port), Route(port), Route(port))
    return base.Service(
        BACKOFF,
        ready=_probe(service.readiness, routes.readiness),
        live=_probe(service.liveness, routes.liveness),
    )


def _probe(probe: Probe, route: Route) -> base.Probe:
    return base.Probe(
        route.port,
        "http",
        route.path,
        probe.initial_delay_s,
        probe.period_s,
        probe.timeout_s,
        probe.failure,
        probe.success,
    )
