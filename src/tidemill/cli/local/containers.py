"""Containers of local deployments: scoring servers of ours, as processes of the user who asked.

FOLDER/containers/ID.json   what was asked for, and how it ended
FOLDER/containers/ID.log    what it wrote
FOLDER/containers/ID.state  the scoring server's own word (docs/serving.md)
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tidemill.serving.scoring as scoring
from tidemill.cli.local.images import Images
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound
from tidemill.sandbox import linux

MAIN = str(Path(scoring.__file__).with_name("main.py"))
PORT_S, POLL_S = 10.0, 0.02  # until the scoring server has said its port
CREATED, RUNNING, EXITED = "created", "running", "exited"
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Container:
    """`binds`: folders of this machine by their path in the container. Times in seconds, 0: never."""

    id: str
    name: str
    image: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    binds: Mapping[str, str] = field(default_factory=dict[str, str])
    status: str = CREATED
    created: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    exit_code: int = 0
    pid: int = 0
    port: int = 0


class Containers:
    """One event loop. They end with this process."""

    def __init__(self, folder: Path, images: Images) -> None:
        self._folder = folder / "containers"
        self._folder.mkdir(exist_ok=True)
        self._images = images
        self._watched: dict[str, asyncio.Task[None]] = {}
        read = [Container(**json.loads(path.read_text("utf-8"))) for path in self._folder.glob("*.json")]
        self._all = {one.id: one for one in sorted(read, key=lambda one: one.created)}
        for one in read:
            if one.status == RUNNING:  # it ended with the process that had started it
                self._keep(replace(one, status=EXITED, exit_code=137, pid=0, port=0))

    def create(self, name: str, body: Mapping[str, Any]) -> Container:
        """Of Docker's body. Raises InvalidRequest, NotFound (its image), Conflict (its name)."""
        image = self._images.find(str(body.get("Image") or ""))
        name = name.removeprefix("/")
        if not name or any(one.name == name for one in self._all.values()):
            raise Conflict(f"There is a container {name!r} already: remove it first.", "ContainerExists")
        host = body.get("HostConfig") or {}
        made = Container(
            os.urandom(32).hex(),
            name,
            image.tag,
            labels={key: str(value) for key, value in (body.get("Labels") or {}).items()},
            variables=dict(image.variables) | _pairs(body.get("Env") or ()),
            binds=_binds(host.get("Binds") or ()),
            created=time.time(),
        )
        self._keep(made)
        return made

    def get(self, reference: str) -> Container:
        """By id, the beginning of one, or name. Raises NotFound."""
        for one in self._all.values():
            if reference.removeprefix("/") == one.name or (reference and one.id.startswith(reference)):
                return one
        raise NotFound(f"No such container: {reference}", "ContainerNotFound")

    def all(self, labels: Sequence[str] = (), stopped: bool = True) -> list[Container]:
        """Newest first. `labels`: NAME or NAME=VALUE, all of them."""
        found = [one for one in self._all.values() if all(_has(one, wanted) for wanted in labels)]
        return [one for one in reversed(found) if stopped or one.status == RUNNING]

    async def start(self, reference: str) -> None:
        """Returns once it listens, or has ended. Raises NotFound, InvalidRequest (a folder that is gone)."""
        one = self.get(reference)
        if one.status == RUNNING:
            return
        python = self._images.python_of(self._images.find(one.image))
        _check(one)
        self._path(one, "state").unlink(missing_ok=True)
        log = os.open(self._path(one, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                str(python),
                MAIN,
                env=self._environment(one, python),
                cwd=_root(one),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        finally:
            os.close(log)
        self._keep(replace(one, status=RUNNING, started=time.time(), pid=process.pid, exit_code=0))
        self._watched[one.id] = asyncio.create_task(self._watch(one.id, process))
        await self._port(one.id)

    async def stop(self, reference: str, grace_s: float) -> None:
        one = self.get(reference)
        watched = self._watched.get(one.id)
        if watched is None:
            return
        os.kill(one.pid, signal.SIGTERM)
        done, _ = await asyncio.wait([watched], timeout=grace_s)
        if not done:
            os.killpg(one.pid, signal.SIGKILL)
            await watched

    async def remove(self, reference: str, force: bool) -> None:
        """Raises Conflict while it runs, without `force`."""
        one = self.get(reference)
        if one.status == RUNNING:
            if not force:
                raise Conflict(f"Container {one.name} runs: stop it first.", "ContainerRuns")
            await self.stop(one.id, 0)
        del self._all[one.id]
        for kind in ("json", "log", "state"):
            self._path(one, kind).unlink(missing_ok=True)

    async def end(self) -> None:
        await asyncio.gather(*(self.stop(one, 5.0) for one in tuple(self._watched)))

    def log(self, reference: str, lines: int | None) -> bytes:
        """The last `lines` of it; None: all."""
        try:
            text = self._path(self.get(reference), "log").read_bytes()
        except FileNotFoundError:
            return b""
        return text if lines is None else b"".join(text.splitlines(keepends=True)[-lines:] if lines else ())

    def _environment(self, one: Container, python: Path) -> dict[str, str]:
        own = {
            "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": os.path.expanduser("~"),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
        }
        given = {name: _here(one, value) for name, value in one.variables.items()}
        return (
            own
            | given
            | {
                "AZUREML_SERVER_PORT": "0",
                "TIDEMILL_SERVING_HOST": HOST,
                "TIDEMILL_SERVING_STATE": str(self._path(one, "state")),
            }
        )

    async def _port(self, id: str) -> None:
        until = time.monotonic() + PORT_S
        path = self._path(self._all[id], "state")
        while self._all[id].status == RUNNING and time.monotonic() < until:
            try:
                port = json.loads(path.read_text("utf-8")).get("port")
            except (FileNotFoundError, ValueError):
                port = None
            if port:
                self._keep(replace(self._all[id], port=port))
                return
            await asyncio.sleep(POLL_S)

    async def _watch(self, id: str, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        del self._watched[id]
        # As Docker says it: 128 and the signal.
        ended = replace(self._all[id], status=EXITED, finished=time.time(), pid=0, port=0)
        self._keep(replace(ended, exit_code=code if code >= 0 else 128 - code))

    def _keep(self, one: Container) -> None:
        self._all[one.id] = one
        made = self._folder / f".{one.id}"
        made.write_text(json.dumps(asdict(one)), "utf-8")
        os.replace(made, self._path(one, "json"))

    def _path(self, one: Container, kind: str) -> Path:
        return self._folder / f"{one.id}.{kind}"


def _check(one: Container) -> None:
    for there in one.binds.values():
        if not os.path.exists(there):
            raise InvalidRequest(f"The folder {there} is not there.", "InvalidMount")


def _end_with_parent() -> None:
    linux.signal_on_parent_death(signal.SIGTERM)


def _pairs(lines: Sequence[str]) -> dict[str, str]:
    return {name: value for name, equals, value in (line.partition("=") for line in lines) if equals}


def _binds(texts: Sequence[str]) -> dict[str, str]:
    """`SOURCE:TARGET[:flags]` -> source by target. Raises InvalidRequest."""
    found: dict[str, str] = {}
    for text in texts:
        source, _, rest = text.partition(":")
        target = rest.split(":")[0]
        if not source.startswith("/") or not target.startswith("/"):
            raise InvalidRequest(f"Volume {text!r} is not FOLDER:PATH, two absolute paths.", "InvalidMount")
        found[target.rstrip("/")] = source
    return found


def _here(one: Container, value: str) -> str:
    """A path in the container as the path on this machine; other values as they are."""
    for target in sorted(one.binds, key=len, reverse=True):
        if value.rstrip("/") == target or value.startswith(f"{target}/"):
            return one.binds[target].rstrip("/") + value.removeprefix(target)
    return value


def _root(one: Container) -> str:
    root = _here(one, one.variables.get("AML_APP_ROOT", ""))
    return root if os.path.isdir(root) else os.path.expanduser("~")


def _has(one: Container, wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in one.labels and (not equals or one.labels[name] == value)
