"""One package made: its environment built, its model and code fetched, its layers written by a process of
their own (`tidemill.packaging.work`), and all of it put into the workspace's storage, whole or not at all.

home/images/.packages/make-…/   work (model, code, the process's own), layout (what it writes)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tidemill.app.assets import images, package_images, scoring_side, surroundings
from tidemill.app.rows.package_rows import LAYERS, container_of, package_status
from tidemill.app.services import Services
from tidemill.app.serving.instances import staged_model
from tidemill.controllers import package_bases
from tidemill.controllers.environments import BUILD_S
from tidemill.controllers.serving import SOURCES
from tidemill.data.blobmodel import BlobProperties
from tidemill.domain.errors import Conflict, InvalidRequest, OutOfSpace, TidemillError
from tidemill.domain.model import Resource
from tidemill.domain.plan import Place, PlannedEnvironment
from tidemill.domain.serving.packaging import OCI, KeptLayer, PackagePlan, PackageStatus
from tidemill.domain.units import human_duration
from tidemill.environments import tree
from tidemill.environments.built import BuiltEnvironment
from tidemill.environments.images.manifest import host_architecture
from tidemill.environments.process import run
from tidemill.packaging import system
from tidemill.packaging.assembling import APPLICATION, FORMAT
from tidemill.packaging.pythons import ENVIRONMENT

_layer = msgspec.json.Decoder(KeptLayer)
Tell = Callable[[str], Awaitable[None]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Packed:
    status: PackageStatus
    notes: tuple[str, ...]


class Making:
    """`tell` gets what goes on, in sentences for its time line."""

    def __init__(self, services: Services, row: Resource, tell: Tell) -> None:
        self._s = services
        self._row = row
        self._tell = tell
        self._status = package_status(row)
        self._plan: PackagePlan = self._status.plan
        self._notes: list[str] = []

    async def run(self) -> Packed:
        """Raises TidemillError, OSError. Cancelled: its process is gone, and so are its files here."""
        planned, built = await self._in_time(self._environment())
        folder = await asyncio.to_thread(self._folder)
        try:
            base = None
            if planned.in_image:
                scope = self._row.key.scope
                base = await self._in_time(package_bases.base_of(self._s, scope, planned, built, folder))
                self._notes += base.notes
            await asyncio.to_thread(self._stage, folder)
            order, keys = await asyncio.to_thread(self._order, folder, planned, built, base)
            made = await self._work(order, folder)
            keeping = asyncio.ensure_future(asyncio.to_thread(self._keep, folder, made, keys))
            try:
                return await asyncio.shield(keeping)
            finally:  # a thread is not cancelled
                await asyncio.gather(keeping, return_exceptions=True)
        finally:
            await asyncio.shield(asyncio.to_thread(tree.remove_tree, folder))

    async def _in_time(self, step: Awaitable[T]) -> T:
        """What waits for package indexes, registries and builds: other packages wait for this one."""
        limit = asyncio.timeout(BUILD_S)
        try:
            async with limit:
                return await step
        except TimeoutError as error:
            if not limit.expired():
                raise
            label, most = self._plan.environment.label, human_duration(round(BUILD_S * 1e6))
            raise TidemillError(
                f"Environment {label} was not ready within {most}. Package again to go on.",
                "EnvironmentTimeout",
            ) from error

    async def _environment(self) -> tuple[PlannedEnvironment, BuiltEnvironment | None]:
        """-> (it, ready; what was built, None: its image has everything)."""
        s, planned = self._s, self._plan.environment
        await self._tell(f"Environment {planned.label} is made ready.")
        if not planned.in_image:
            built = await s.environments.ensure(images.spec_of(planned), _unheard)
            s.environments.is_built(built.digest)  # so that housekeeping leaves it while it is read
            self._notes += built.notes
            why = await scoring_side.settle(s, planned, _unheard)
            if why:
                self._notes.append(f"Its scoring server does without uvloop and orjson: {why}")
            return planned, built
        planned, notes = await images.prepare(s, self._row.key.scope, planned, _unheard)
        self._notes += notes
        return planned, surroundings.built_environment(s, planned)

    def _folder(self) -> Path:
        self._s.images.prepare()
        above = package_images.place(self._s)
        above.mkdir(mode=0o700, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="make-", dir=above))
        (folder / "work").mkdir()
        return folder

    def _stage(self, folder: Path) -> None:
        model = staged_model(self._plan.model)
        self._copy(Place(model.account, model.container, model.path), folder / "work" / "model")
        if self._plan.code is not None:
            self._copy(self._plan.code, folder / "work" / "code")

    def _copy(self, place: Place, target: Path) -> None:
        self._s.blobs.copy_out(place.account, place.container, place.path, target)

    # the order

    def _order(
        self,
        folder: Path,
        planned: PlannedEnvironment,
        built: BuiltEnvironment | None,
        base: package_bases.Base | None,
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """-> (for the process, the names under which its layers are kept)."""
        plan, spec = self._plan, self._plan.spec
        model = staged_model(plan.model)
        if base is not None:
            program = package_bases.brought_along(self._s, built)
        else:
            assert built is not None
            program = os.path.realpath(built.python)
        side = scoring_side.folder_of(self._s, plan.environment)
        keys = _keys(program, planned, built, side, base) if spec.format == OCI else {}
        order: dict[str, Any] = {
            "format": spec.format,
            "layout": str(folder / "layout"),
            "work": str(folder / "work"),
            "architecture": host_architecture(),
            "reference": f"{spec.name.lower()}:{spec.version}",
            "server": str(SOURCES),
            "python": program,
            "environment": str(built.path) if built is not None else "",
            "version": built.python_version if built is not None else "",
            # An image may be a package itself: its own environment stays where it is.
            "place": ENVIRONMENT if base is None or built is None else f"{ENVIRONMENT}-{built.digest[:8]}",
            "side": str(side) if side is not None else "",
            "code": str(folder / "work" / "code") if plan.code is not None else "",
            "script": spec.script,
            "model": str(folder / "work" / "model"),
            "model_folder": spec.mount or f"{APPLICATION}/{model.folder}",
            "model_name": model.name,
            "variables": {**dict(planned.variables), **dict(spec.variables)},
            "annotations": self._annotations(built, planned),
            "known": {name: asdict(layer) for name, layer in self._known(keys).items()},
            "base": base.order if base is not None else None,
        }
        return order, keys

    def _annotations(self, built: BuiltEnvironment | None, planned: PlannedEnvironment) -> dict[str, str]:
        """https://github.com/opencontainers/image-spec/blob/v1.1.0/annotations.md, and our own."""
        spec, model = self._plan.spec, self._plan.model
        found: dict[str, str] = {}
        if built is not None:
            lock = hashlib.sha256(built.lock_text.encode()).hexdigest()
            found = {
                "io.tidemill.environment.lock": f"sha256:{lock}",
                "io.tidemill.python": built.python_version,
            }
        if planned.in_image and planned.build is None:
            found["org.opencontainers.image.base.name"] = str(planned.image)
            found["org.opencontainers.image.base.digest"] = planned.image_digest
        return found | {
            "org.opencontainers.image.title": spec.name,
            "org.opencontainers.image.version": spec.version,
            "org.opencontainers.image.description": f"Model {model.name}:{model.version}, served",
            "io.tidemill.model.name": model.name,
            "io.tidemill.model.version": model.version,
            "io.tidemill.environment": self._plan.environment.label,
        }

    def _known(self, keys: dict[str, str]) -> dict[str, KeptLayer]:
        account = self._plan.account
        self._s.blobs.ensure_container(account, LAYERS)
        found: dict[str, KeptLayer] = {}
        for name, key in keys.items():
            raw = self._s.blobs.read_bytes(account, LAYERS, f"keys/{key}")
            layer = _layer.decode(raw) if raw else None
            if layer is not None and self._s.blobs.get(account, LAYERS, _blob(layer)) is not None:
                found[name] = layer
        return found

    # the work

    async def _work(self, order: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What the process says at last. Raises InvalidRequest, OutOfSpace, TidemillError."""
        word: dict[str, Any] = {}
        said: asyncio.Queue[str | None] = asyncio.Queue()

        def hear(line: str) -> None:
            try:
                told = json.loads(line)
            except ValueError:
                return
            if "say" in told:
                said.put_nowait(str(told["say"]))
            else:
                word.update(told)

        telling = asyncio.create_task(self._tell_all(said))
        argv = [sys.executable, "-I", "-m", "tidemill.packaging.work"]
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
        try:
            code, output = await run(
                argv, env=env, cwd=folder / "work", log=hear, stdin=json.dumps(order).encode()
            )
        finally:
            said.put_nowait(None)
            await telling
        if "refused" in word:
            raise InvalidRequest(str(word["refused"]), "PackageRefused")
        if "full" in word:
            raise OutOfSpace(
                "No space left on the disk of this home: nothing of the package was kept. Free space and try "
                "again."
            )
        if "done" not in word:
            last = output.strip().splitlines()[-1:] or [f"exit code {code}"]
            raise TidemillError(f"The package could not be made: {last[0]}", "PackagingFailed", status=500)
        return word["done"]

    async def _tell_all(self, said: asyncio.Queue[str | None]) -> None:
        while (line := await said.get()) is not None:
            await self._tell(line)

    # what is kept

    def _keep(self, folder: Path, made: dict[str, Any], keys: dict[str, str]) -> Packed:
        blobs, account, container = self._s.blobs, self._plan.account, container_of(self._row)
        layout = folder / "layout"
        tree.sync_file_system(layout)
        layers = {name: msgspec.convert(value, KeptLayer) for name, value in made["layers"].items()}
        blobs.ensure_container(account, container)
        for layer in layers.values():
            if not (layout / f"blobs/sha256/{_hex(layer)}").exists():  # made before
                self._link(LAYERS, _blob(layer), container, f"blobs/sha256/{_hex(layer)}")
        infos = blobs.put_tree(account, container, "", layout, move=True)
        for name, key in keys.items():
            layer = layers[name]
            if blobs.get(account, LAYERS, _blob(layer)) is None:
                self._link(container, f"blobs/sha256/{_hex(layer)}", LAYERS, _blob(layer))
            blobs.put_bytes(account, LAYERS, f"keys/{key}", msgspec.json.encode(layer))
        small = sum(info.size for info in infos if not info.name.endswith(tuple(map(_hex, layers.values()))))
        status = replace(
            self._status,
            container=container,
            digest=str(made["digest"]),
            size=small + sum(layer.size for layer in layers.values()),
            layers=tuple(layers.values()),
            notes=(*self._notes, *made["notes"]),
        )
        return Packed(status, status.notes)

    def _link(self, source: str, name: str, target: str, there: str) -> None:
        account = self._plan.account
        found = self._s.blobs.get(account, source, name)
        if found is None:
            raise Conflict("A layer that was made before was deleted meanwhile: package again.", "LayerGone")
        self._s.blobs.copy_blob(found, account, target, there, BlobProperties())


def _keys(
    program: str,
    planned: PlannedEnvironment,
    built: BuiltEnvironment | None,
    side: Path | None,
    base: package_bases.Base | None,
) -> dict[str, str]:
    """Names for the layers that others may share, by what they are made of."""
    keys: dict[str, str] = {}
    below = planned.image_digest
    if base is not None and base.root:
        keys["image"] = _hash("image", str(FORMAT), below)
    if program:
        info = os.stat(program)
        host = "" if below else f"host {system.stamp()}"  # whose libraries come along
        keys["python"] = _hash("python", str(FORMAT), program, str(info.st_size), str(info.st_mtime_ns), host)
    if built is not None or side is not None:
        digest = built.digest if built is not None else ""
        keys["environment"] = _hash(
            "environment", str(FORMAT), keys.get("python", below), digest, str(side or "")
        )
    return keys


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _hex(layer: KeptLayer) -> str:
    return layer.digest.removeprefix("sha256:")


def _blob(layer: KeptLayer) -> str:
    return f"sha256/{_hex(layer)}"


def _unheard(_: str) -> None: ...
