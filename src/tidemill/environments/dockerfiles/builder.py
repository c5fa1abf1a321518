"""Dockerfiles built into images: by buildah in a box, once for each content, kept by the image store.

images/.dockerfiles/<key>     the digest of the image that it became; <key>.log what was said
images/.tmp-<key>-<pid>/      the box (box.py) of one being built; …-image what it became
images/.locks/<key>           flock: one build per key across processes

The key covers the context's files, the Dockerfile, the digests of the images that it names, the workspace and
how it is built: a base image that is pushed anew makes a new image.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tidemill.domain.errors import InvalidRequest, TidemillError
from tidemill.domain.units import plural
from tidemill.environments import lock, tree
from tidemill.environments.box import Confinement
from tidemill.environments.dockerfiles import box, reading
from tidemill.environments.dockerfiles.box import BUILT, DockerBox
from tidemill.environments.dockerfiles.reading import Base, Dockerfile
from tidemill.environments.filelock import FileLock
from tidemill.environments.images.manifest import Manifest
from tidemill.environments.images.reference import PACKAGE, ImageReference, parse_reference
from tidemill.environments.images.registry import Login, Unreachable
from tidemill.environments.images.store import FoundImage, ImageStore
from tidemill.environments.shared import LogLine, Shared

FORMAT = 1  # of what the key covers: raise it and everything is built anew
_STEP = re.compile(r"^(?:\[(\d+)/\d+\] )?STEP (\d+)/\d+: ")
_BUILD = (
    *("--isolation", "chroot", "--network", "host", "--pull-never", "--no-cache", "--layers=false"),
    *("--format", "oci", "-t", BUILT),
)
_LONGEST_LOG = 8 << 20  # of a build, in characters; each line counts some more
_OF_A_LINE = 64
_SAID = 5  # lines before buildah's own complaint that an error repeats

Logins = Callable[[ImageReference], Awaitable[Login | None]]


class Context(Protocol):
    """The files beside a Dockerfile. Its methods block; each may raise TidemillError."""

    def digest(self) -> str:
        """Of names and contents."""
        ...

    def read(self, name: str) -> bytes | None: ...

    def copy_to(self, folder: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class Order:
    """`label`: of the environment, for sentences; `owner`: the workspace; `dockerfile`: its path in the
    context; `logins`: what a registry wants."""

    label: str
    owner: str
    context: Context
    dockerfile: str
    logins: Logins


@dataclass(frozen=True, slots=True)
class _Start:
    """A base image, as it is today."""

    base: Base
    image: ImageReference
    manifest: Manifest
    login: Login | None


@dataclass(frozen=True, slots=True)
class _Plan:
    order: Order
    key: str
    file: Dockerfile
    starts: tuple[_Start, ...]
    program: str


class DockerfileBuilder:
    """`root`: the home's images/; `images` keeps what is built. One event loop; any number of processes."""

    def __init__(self, root: Path, images: ImageStore, confinement: Confinement) -> None:
        self._root = root
        self._images = images
        self._confinement = confinement
        self._builds: Shared[str] = Shared()

    def require(self, label: str) -> str:
        """The path of buildah. Raises InvalidRequest naming what this host lacks."""
        return box.require(label, self._confinement)

    async def ensure(self, order: Order, log: LogLine) -> FoundImage:
        """The image, built now if it is not here; `log` gets every line of its build, whenever that was.
        However many ask at once, it is built once.

        Raises InvalidRequest with the Dockerfile's line, OutOfSpace, or 503 where a registry cannot be
        reached and nothing was built before. Cancelling the last one who waits stops the build."""
        program = self.require(order.label)
        await asyncio.to_thread(self._images.prepare)
        asked, file = await asyncio.to_thread(_read, order)
        try:
            starts = [await self._start(order, file, base) for base in file.bases]
        except Unreachable as error:
            last = self._known(f"asked-{asked}")
            found = self._images.find(last)
            if found is None:
                raise
            return FoundImage(
                found, True, (f"{error.message} What was built before is used: {found.short}.",)
            )
        plan = _Plan(order, _key(asked, starts), file, tuple(starts), program)
        digest = self._known(plan.key)
        cached = self._images.find(digest) is not None
        if cached:
            for line in await asyncio.to_thread(self._said, plan.key):
                log(line)
        else:
            digest = await self._builds.join(plan.key, log, lambda say: self._build_once(plan, say))
        found = self._images.find(digest)
        assert found is not None
        self._remember(f"asked-{asked}", digest)
        said = "was built before" if cached else f"was built: {plural(found.layers, 'layer')}"
        return FoundImage(found, cached, (f"The image of {order.dockerfile} {said}; it is {found.short}.",))

    async def _start(self, order: Order, file: Dockerfile, base: Base) -> _Start:
        try:
            image = parse_reference(base.image)
            if image.local:
                what = "package of a model" if image.transport == PACKAGE else "file of this server"
                raise InvalidRequest(
                    f"Image {base.image!r} is a {what}, and a Dockerfile starts from a registry's image: "
                    "push it to one, or name it as the environment's image.",
                    "InvalidImage",
                    box.TARGET,
                )
            image = self._images.check(image)
            login = await order.logins(image)
            manifest = await self._images.look_up(image, order.owner, login)
        except TidemillError as error:
            error.message = f"{file.name}, line {base.line}: {error.message}"
            raise
        return _Start(base, image, manifest, login)

    # building

    async def _build_once(self, plan: _Plan, say: LogLine) -> str:
        try:
            with FileLock(self._root / ".locks" / plan.key) as held:
                await held.acquire(lambda: say("Another process is building this image: waiting for it."))
                known = self._known(plan.key)
                if self._images.find(known) is None:
                    known = await self._logged(plan, held, say)
                    self._remember(plan.key, known)
                return known
        except OSError as error:
            if tree.is_full(error):
                raise lock.out_of_space() from error
            raise

    async def _logged(self, plan: _Plan, held: FileLock, say: LogLine) -> str:
        path = self._log_path(plan.key)
        path.parent.mkdir(exist_ok=True)
        with path.open("w", encoding="utf-8", buffering=1) as file:

            def write(line: str) -> None:
                say(line)
                file.write(line + "\n")

            return await self._build(plan, held, write)

    async def _build(self, plan: _Plan, held: FileLock, say: LogLine) -> str:
        work = self._root / f".tmp-{plan.key}-{os.getpid()}"
        layout = work.with_name(f"{work.name}-image")
        made = DockerBox(work, self._confinement, plan.program, self._images.most_bytes)
        try:
            await asyncio.to_thread(self._images.discard, plan.key)
            await asyncio.to_thread(_lay_out, made, plan.order.context)
            for number, start in enumerate(plan.starts):
                await self._images.fetch(
                    start.image, start.manifest, start.login, made.base(number), held.descriptors, say
                )
            await asyncio.to_thread(made.given)
            await _run_buildah(made, plan, held, say)
            await asyncio.to_thread(made.close)
            await asyncio.to_thread(made.take, layout)
            name = f"Dockerfile of {plan.order.label}"
            return (await self._images.adopt(layout, name, plan.order.owner, say)).digest
        finally:
            await asyncio.shield(asyncio.to_thread(_leave, made, work, layout))

    # files

    def _log_path(self, key: str) -> Path:
        return self._root / ".dockerfiles" / f"{key}.log"

    def _said(self, key: str) -> list[str]:
        try:
            return self._log_path(key).read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []

    def _known(self, name: str) -> str:
        try:
            return (self._root / ".dockerfiles" / name).read_text("ascii")
        except OSError:
            return ""

    def _remember(self, name: str, digest: str) -> None:
        path = self._root / ".dockerfiles" / name
        path.parent.mkdir(exist_ok=True)
        tree.replace_whole(path, digest)


def _read(order: Order) -> tuple[str, Dockerfile]:
    """-> (digest of what was asked for, the Dockerfile)."""
    raw = order.context.read(order.dockerfile)
    if raw is None:
        raise InvalidRequest(
            f"The build context of environment {order.label} has no {order.dockerfile!r}: put the Dockerfile "
            "there, or name it (dockerfile_path: its path below the context's folder).",
            "DockerfileMissing",
            box.TARGET,
        )
    parts = [f"format {FORMAT}", *_BUILD, order.owner, order.dockerfile, order.context.digest()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest(), reading.read(order.dockerfile, raw)


def _key(asked: str, starts: list[_Start]) -> str:
    parts = [asked, *(f"{start.image.canonical} {start.manifest.digest}" for start in starts)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _lay_out(made: DockerBox, context: Context) -> None:
    made.make()
    made.context.mkdir()
    context.copy_to(made.context)


async def _run_buildah(made: DockerBox, plan: _Plan, held: FileLock, say: LogLine) -> None:
    file = plan.file
    for number, start in enumerate(plan.starts):
        lines: list[str] = []  # a path that buildah is given becomes a name, so none from the root
        pull = made.buildah("pull", "--quiet", *made.policy(), f"oci:in/bases/{number}:base")
        code, output = await made.run(pull, lines.append, held.descriptors)
        if code == 0:
            tag = made.buildah("tag", output.split()[-1], _tag(start.image))
            code, output = await made.run(tag, lines.append, held.descriptors)
        if code != 0:
            raise reading.problem(
                file.name,
                start.base.line,
                f"image {start.base.image}: {_complaint(output)}",
                "ImageBuildFailed",
            )
    at = _Place(file)

    def follow(line: str) -> None:
        at.follow(line)
        say(line)

    build = made.buildah("build", *_BUILD, *made.policy())
    build += ["-f", str(made.context / plan.order.dockerfile), str(made.context)]
    code, output = await made.run(build, follow, held.descriptors)
    if code != 0:
        raise at.problem(output)
    push = made.buildah("push", "--quiet", *made.policy(), BUILT, f"oci:{made.folder}/out/image:built")
    code, output = await made.run(push, say, held.descriptors)
    if code != 0:
        raise reading.problem(file.name, 0, f"what it became: {_complaint(output)}", "ImageBuildFailed")


class _Place:
    """Where in the Dockerfile buildah is, by what it says."""

    def __init__(self, file: Dockerfile) -> None:
        self._file = file
        self._at: reading.Instruction | None = None
        self._said = 0

    def follow(self, line: str) -> None:
        """Raises InvalidRequest where the build prints without end."""
        self._said += len(line) + _OF_A_LINE
        if self._said > _LONGEST_LOG:
            raise self.refusal(f"the build prints more than a log may hold ({_LONGEST_LOG >> 20} MiB)")
        if step := _STEP.match(line):
            self._at = self._file.at(int(step[1] or 1), int(step[2])) or self._at

    def problem(self, output: str) -> InvalidRequest:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        at = max((n for n, line in enumerate(lines) if _STEP.match(line)), default=-1)
        said = [line for line in lines[at + 1 :] if not line.startswith(("Error:", "subprocess exited"))]
        why = _complaint(output)
        if said:
            why += ": " + " / ".join(line[:400] for line in said[-_SAID:])
        return self.refusal(why.rstrip("."))

    def refusal(self, why: str) -> InvalidRequest:
        line = self._at.line if self._at else 0
        return reading.problem(self._file.name, line, why, "ImageBuildFailed")


def _complaint(output: str) -> str:
    """buildah's last word."""
    errors = [line for line in output.splitlines() if line.startswith("Error: ")]
    lines = errors or output.splitlines() or ["it ended without a word"]
    return lines[-1].removeprefix("Error: ").strip()[:400]


def _tag(image: ImageReference) -> str:
    """buildah finds an image that is named by its digest under any tag of its repository."""
    return (replace(image, digest="", tag="by-digest") if image.digest else image).canonical


def _leave(made: DockerBox, *folders: Path) -> None:
    made.close()
    for folder in folders:
        tree.remove_tree(folder)
