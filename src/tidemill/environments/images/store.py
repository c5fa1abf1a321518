"""Images on disk: pulled once, verified, unpacked, content-addressed, read-only, visible only when whole.

images/<digest>/rootfs        its files; image.json beside them is the marker
images/.tmp-<digest>-<pid>/   one being pulled and unpacked; swept when nobody holds its lock
images/.locks/<digest>        flock: one pull per image across processes
images/.known/<owner>/<name>  what a workspace's reference was when it was last looked up

`owner` is a workspace: what one was let read by a registry is not given to another without asking.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.units import human_bytes, plural
from tidemill.environments import box, tree
from tidemill.environments.box import Confinement
from tidemill.environments.filelock import FileLock
from tidemill.environments.images import lookup, pulling
from tidemill.environments.images.manifest import Manifest, host_architecture
from tidemill.environments.images.reference import DIGEST, TARGET, ImageReference
from tidemill.environments.images.registry import Login, Skopeo, Unreachable, out_of_space
from tidemill.environments.images.unpacked import ROOT, UnpackedImage, read_record, write_record
from tidemill.environments.shared import LogLine, Shared

_TMP = ".tmp-"
# What a sandbox mounts upon: real ones in every image. The files tell programs about the node they run on.
FOLDERS = ("/var/tmp",)
FILES = {"/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n", "/etc/resolv.conf": "", "/etc/hostname": ""}
PROGRAMS = ("mpirun", "ray")  # that a job's distribution may want to find in it


@dataclass(frozen=True, slots=True)
class ImagePolicy:
    """What the server's owner allows. `folders`: where local images may lie; `insecure`: registries without
    TLS; `registries`: the only ones that are asked (none: any); `most_bytes`: of one image, unpacked."""

    folders: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    registries: tuple[str, ...] = ()
    most_bytes: int = 100 << 30


@dataclass(frozen=True, slots=True)
class FoundImage:
    """`cached`: it was there before. `notes`: sentences for the job's time line."""

    image: UnpackedImage
    cached: bool
    notes: tuple[str, ...] = ()


class ImageStore:
    """Images below `root` (the home's images/). One event loop; any number of processes.

    `now` is the wall clock in microseconds."""

    def __init__(
        self,
        root: Path,
        now: Callable[[], int],
        policy: ImagePolicy = ImagePolicy(),
        confinement: Confinement | None = None,
    ) -> None:
        self._root = root
        self._now = now
        self._policy = policy
        self._confinement = confinement or Confinement()
        self._skopeo = Skopeo(root / ".fetch", policy.insecure)
        self._lookups: Shared[Manifest] = Shared()
        self._pulls: Shared[UnpackedImage] = Shared()
        self._architecture = host_architecture()
        self._prepared = False

    @property
    def most_bytes(self) -> int:
        return self._policy.most_bytes

    def check(self, image: ImageReference) -> ImageReference:
        """The reference as it may be used, a local path without links. Raises InvalidRequest."""
        if image.local:
            return replace(image, path=self._allowed(image))
        allowed = self._policy.registries
        if allowed and image.registry not in allowed:
            raise InvalidRequest(
                f"Image {image.written!r} is of registry {image.registry}, and this server's owner allows "
                f"only {', '.join(allowed)} (image_registries in config.json).",
                "RegistryNotAllowed",
                TARGET,
            )
        return image

    def find(self, digest: str) -> UnpackedImage | None:
        """By its manifest's digest; None where it is not here."""
        return read_record(self._path(digest)) if DIGEST.fullmatch(digest) else None

    def known(self, image: ImageReference, owner: str) -> UnpackedImage | None:
        """What `image` cannot have ceased to be: one named by digest, or an archive that has not changed."""
        settled = bool(image.digest) or image.transport in ("oci-archive", "docker-archive")
        return self._last(image, owner) if settled else None

    async def ensure(
        self, image: ImageReference, owner: str, login: Login | None, log: LogLine
    ) -> FoundImage:
        """The image, pulled and unpacked now if it is not here; `log` gets lines on how far that is.

        A tag is looked up each time, so that a new push is seen; where the registry cannot be reached, what
        the tag was before is used, with a note. However many ask at once, an image is pulled once. Raises
        InvalidRequest (no such image, credentials refused, not for this host, unsafe), OutOfSpace, or 503."""
        image = self.check(image)
        known = self.known(image, owner)
        if known is not None:
            return FoundImage(known, True)
        await asyncio.to_thread(self.prepare)
        try:
            manifest = await self.look_up(image, owner, login)
        except Unreachable as error:
            last = self._last(image, owner)
            if last is None:
                raise
            return FoundImage(last, True, (f"{error.message} What it was before is used: {last.short}.",))
        found = self.find(manifest.digest)
        cached = found is not None
        if found is None:
            found = await self._pulls.join(
                manifest.digest, log, lambda say: self._pull(image, manifest, login, say)
            )
        self._remember(image, owner, found.digest)
        if not image.local:  # what it may read by a tag, it may read by its digest
            self._remember(image.at(found.digest), owner, found.digest)
        return FoundImage(found, cached, (_told(image, found, cached),))

    async def look_up(self, image: ImageReference, owner: str, login: Login | None) -> Manifest:
        """What it is now. Raises InvalidRequest, OutOfSpace, Unreachable."""
        return await self._lookups.join(
            f"{owner} {image.canonical}",
            lambda _: None,
            lambda _: lookup.look_up(self._skopeo, image, login, self._architecture),
        )

    async def fetch(
        self,
        image: ImageReference,
        manifest: Manifest,
        login: Login | None,
        layout: Path,
        held: Sequence[int],
        log: LogLine,
    ) -> None:
        """A registry's image, verified, as an OCI layout with the name `base` in the new folder `layout`."""
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        job = pulling.Job(image, manifest, held, log)
        await pulling.fetch(job, self._skopeo, login, blobs)
        await asyncio.to_thread(pulling.verified, job, blobs, self._architecture)
        await asyncio.to_thread(lookup.write_layout, layout, manifest, "base")

    async def adopt(self, layout: Path, written: str, owner: str, log: LogLine) -> UnpackedImage:
        """The only image of an OCI layout of ours, whose content is somebody else's word. Raises as
        `ensure`."""
        image = ImageReference(written, "oci", path=str(layout))
        manifest = await self.look_up(image, owner, None)
        found = self.find(manifest.digest)
        return found or await self._pulls.join(
            manifest.digest, log, lambda say: self._pull(image, manifest, None, say)
        )

    def sweep(self) -> int:
        """Removes what killed pulls and builds left behind; returns how many. Those that live are left
        alone."""
        swept = 0
        for path in self._root.glob(_TMP + "*"):
            name = path.name.removeprefix(_TMP).split("-")[0]
            with FileLock(self._lock_path(name)) as held:
                if held.try_acquire():
                    box.clear(path, self._confinement)
                    swept += 1
        return swept

    # --- pulling

    async def _pull(
        self, image: ImageReference, manifest: Manifest, login: Login | None, say: LogLine
    ) -> UnpackedImage:
        try:
            with FileLock(self._lock_path(_hex(manifest.digest))) as held:
                await held.acquire(lambda: say("Another process is pulling this image: waiting for it."))
                job = pulling.Job(image, manifest, held.descriptors, say)
                return self.find(manifest.digest) or await self._make(job, login)
        except OSError as error:
            if tree.is_full(error):
                raise out_of_space(image) from error
            raise

    async def _make(self, job: pulling.Job, login: Login | None) -> UnpackedImage:
        started, manifest = self._now(), job.manifest
        work = self._root / f"{_TMP}{_hex(manifest.digest)}-{os.getpid()}"
        try:
            await asyncio.to_thread(self._discard, manifest.digest)
            (work / ROOT).mkdir(parents=True)
            blobs = work / "blobs"
            if job.image.transport == "oci":
                blobs = lookup.blobs_of(job.image)
            else:
                await pulling.fetch(job, self._skopeo, login, blobs)
            config = await asyncio.to_thread(pulling.verified, job, blobs, self._architecture)
            facts = await pulling.unpack(
                job,
                config,
                blobs,
                work / ROOT,
                most_bytes=self._policy.most_bytes,
                folders=FOLDERS,
                files=FILES,
                programs=PROGRAMS,
            )
            found = UnpackedImage(
                digest=manifest.digest,
                root=self._path(manifest.digest) / ROOT,
                env=config.env,
                working_dir=config.working_dir,
                user=config.user,
                entrypoint=config.entrypoint,
                cmd=config.cmd,
                shell=facts["shell"],
                libc=facts["libc"],
                pythons=tuple((version, path) for version, path in facts["pythons"]),
                programs=tuple(facts["programs"]),
                layers=len(manifest.layers),
                pulled=manifest.size,
                size=facts["size"],
                at=self._now(),
                seconds=(self._now() - started) / 1e6,
            )
            await asyncio.to_thread(self._publish, work, found)
            job.say(f"Image {found.short} is ready after {found.seconds:.1f} s.")
            return found
        finally:
            await asyncio.shield(asyncio.to_thread(tree.remove_tree, work))

    def _publish(self, work: Path, image: UnpackedImage) -> None:
        """On disk, then visible: who sees the marker has files that survive a power cut."""
        tree.remove_tree(work / "blobs")
        os.chmod(work / ROOT, 0o555)
        os.chmod(work, 0o755)
        write_record(work, image)
        tree.sync_file_system(work)
        os.rename(work, self._path(image.digest))
        tree.sync_directory(self._root)

    # --- files

    def _allowed(self, image: ImageReference) -> str:
        """Job authors name paths of the server: only below what its owner allows, links resolved."""
        real = os.path.realpath(image.path)
        for folder in self._policy.folders:
            if Path(real).is_relative_to(os.path.realpath(folder)):
                return real
        listed = ", ".join(self._policy.folders) or "none is allowed yet"
        raise InvalidRequest(
            f"Image {image.written!r} is not in a folder from which the owner of this server allows images "
            f"(image_folders in config.json: {listed}).",
            "ImageNotAllowed",
            TARGET,
        )

    def _last(self, image: ImageReference, owner: str) -> UnpackedImage | None:
        """What `owner`'s reference was when it was last looked up, if it is still here."""
        with suppress(OSError):
            return self.find(self._known_path(image, owner).read_text("ascii"))
        return None

    def _remember(self, image: ImageReference, owner: str, digest: str) -> None:
        path = self._known_path(image, owner)
        path.parent.mkdir(parents=True, exist_ok=True)
        tree.replace_whole(path, digest)

    def _known_path(self, image: ImageReference, owner: str) -> Path:
        name = image.canonical
        if image.transport in ("oci-archive", "docker-archive"):
            with suppress(OSError):
                info = os.stat(image.path)
                name += f" {info.st_ino} {info.st_size} {info.st_mtime_ns}"
        return self._root / ".known" / _short_hash(owner) / _short_hash(name)

    def prepare(self) -> None:
        """Once per process, before its first image: the directories, and out with what a killed one left."""
        if self._prepared:
            return
        for folder in (self._root, self._root / ".locks", self._root / ".fetch", self._root / ".known"):
            folder.mkdir(parents=True, exist_ok=True)
        self.sweep()
        self._prepared = True

    def _discard(self, digest: str) -> None:
        """Remains of its killed pulls, and one without its marker. The lock is held."""
        if self._path(digest).exists():
            os.rename(self._path(digest), self._root / f"{_TMP}{_hex(digest)}-removed")
        self.discard(_hex(digest))

    def discard(self, name: str) -> None:
        """What killed pulls or builds left that had the lock `name`, which is held."""
        for path in self._root.glob(f"{_TMP}{name}-*"):
            box.clear(path, self._confinement)

    def _path(self, digest: str) -> Path:
        return self._root / _hex(digest)

    def _lock_path(self, hexadecimal: str) -> Path:
        return self._root / ".locks" / hexadecimal


def _told(image: ImageReference, found: UnpackedImage, cached: bool) -> str:
    """The sentence for the job's time line: what a tag stands for today, or how it came here."""
    if cached:
        return f"Image {image.written} is {found.short}."
    layers = plural(found.layers, "layer")
    return (
        f"Image {image.written} is {found.short}: {layers} of {human_bytes(found.pulled)} fetched, "
        f"{human_bytes(found.size)} unpacked, in {found.seconds:.1f} s."
    )


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
