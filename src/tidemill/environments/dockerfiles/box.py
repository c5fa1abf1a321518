"""Where buildah runs: a box in which it is root, of user ids that are nobody's on the host, and may mount.

Besides what every box gives to other people's code, it has a user namespace with all user ids that an image
may use, all capabilities within that namespace, and a filter that lets it mount, change its root and make
namespaces, but for those of users, of networks and of control groups.
buildah takes most capabilities away from a `RUN`, and that is no wall: the box is.

    folder/in/context/   the build context        folder/in/bases/N/   base images, OCI layouts
    folder/storage/      buildah's                folder/out/image/    the result, an OCI layout
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.units import human_bytes
from tidemill.environments import box, index
from tidemill.environments.box import Confinement
from tidemill.sandbox import bwrap, shown, tiers

TARGET = "properties.build"
BUILT = "localhost/built"
_MEASURED_S = 5.0
_BLOB = re.compile(r"[0-9a-f]{64}")
_SETTINGS = {
    # Only images that were brought here are used, and those were verified by their digests.
    "policy.json": json.dumps({"default": [{"type": "insecureAcceptAnything"}]}),
    "registries.conf": 'unqualified-search-registries = ["docker.io"]\nshort-name-mode = "permissive"\n',
    "containers.conf": "",
}


class DockerBox(box.Box):
    keeps_owners = True

    def __init__(self, folder: Path, rules: Confinement, program: str, most_bytes: int) -> None:
        super().__init__(folder, rules, index.settings(os.environ), folder / "cache", [Path(program)], None)
        self.foreign = True
        self.context = folder / "in" / "context"
        self._program = program
        self.most_bytes = most_bytes
        self._measured = 0.0

    def make(self) -> None:
        super().make()
        for name in ("storage", "run", "out", "in/bases"):
            (self.folder / name).mkdir()
        for name, text in _SETTINGS.items():
            (self.folder / "in" / name).write_text(text, "utf-8")

    def base(self, number: int) -> Path:
        return self.folder / "in" / "bases" / str(number)

    def given(self) -> None:
        """What lies in `in` is whole: buildah, who is somebody else, may read it."""
        for directory, _, files in os.walk(self.folder / "in"):
            os.chmod(directory, 0o755)
            for name in files:
                os.chmod(os.path.join(directory, name), 0o644)

    def buildah(self, *words: str) -> list[str]:
        place = ["--root", f"{self.folder}/storage", "--runroot", f"{self.folder}/run"]
        kept = ["--storage-driver", "vfs", "--storage-opt", "vfs.ignore_chown_errors=true"]
        return [
            self._program,
            *kept,
            *place,
            "--registries-conf",
            f"{self.folder}/in/registries.conf",
            *words,
        ]

    def policy(self) -> list[str]:
        return ["--signature-policy", f"{self.folder}/in/policy.json"]

    def take(self, layout: Path) -> None:
        """Moves the result, which is somebody else's word, into the folder `layout`: plain files, ours, by
        the names that a layout has. Nothing of the box runs any more. Raises InvalidRequest."""
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        try:
            here = _folder(self.folder, "out", "image")
            try:
                _move("index.json", here, layout)
            finally:
                os.close(here)
            here = _folder(self.folder, "out", "image", "blobs", "sha256")
            try:
                for name in filter(_BLOB.fullmatch, os.listdir(here)):
                    _move(name, here, blobs)
            finally:
                os.close(here)
        except OSError as error:
            raise _disorder(error.strerror or str(error)) from error

    # what it runs in

    def _environment(self) -> dict[str, str]:
        proxies = dict.fromkeys(("http_proxy", "https_proxy"), box.PROXY)
        proxies |= {name.upper(): value for name, value in proxies.items()}
        inside = f"{self.folder}/in"
        return {
            **proxies,
            "PATH": tiers.PATH,
            "HOME": f"{self.folder}/tmp",
            "TMPDIR": f"{self.folder}/tmp",
            "CONTAINERS_CONF": f"{inside}/containers.conf",
            "_CONTAINERS_USERNS_CONFIGURED": "done",
            "LC_ALL": "C.UTF-8",
        }

    def _order(self, argv: Sequence[str]) -> dict[str, object]:
        folder = str(self.folder)
        reads = [self._program, f"{folder}/in", f"{folder}/etc"]
        job = shown.Job(folder, folder, "", reads)
        sandbox = bwrap.Sandbox(self._made.program, [], f"{folder}/etc", "localhost")
        sandbox.is_root()
        binds = [(folder, True, False), (self._program, False, False)]
        return {
            "argv": sandbox.command(list(argv), job),
            "env": self._environment(),
            **self._around(binds, builds=True),
        }

    async def _check_disk(self) -> None:
        await super()._check_disk()
        if self._rules.helper is not None or time.monotonic() - self._measured < _MEASURED_S:
            return
        size = await asyncio.to_thread(_size, self.folder)
        self._measured = time.monotonic()
        if size > self.most_bytes:
            raise self._out_of_disk()

    def _out_of_disk(self) -> InvalidRequest:
        return InvalidRequest(
            f"The build took more than the {human_bytes(self.most_bytes)} of disk that an image "
            "may have (image_max_gib in config.json).",
            "BuildOutOfDisk",
            TARGET,
        )

    def _out_of_memory(self, gib: int) -> InvalidRequest:
        return InvalidRequest(
            f"A step took more than the {gib} GiB of memory that a build may have.",
            "BuildOutOfMemory",
            TARGET,
        )


def require(label: str, rules: Confinement) -> str:
    """The path of buildah. Raises InvalidRequest naming what this host lacks for a Dockerfile."""
    program = shutil.which("buildah")
    what = f"Environment {label} is a Docker build context, and this server's host"
    instead = (
        "Or build the image elsewhere and name it (image: registry/name:tag), "
        "or write its Python packages as a conda file (conda_file:)."
    )
    if program is None:
        raise InvalidRequest(
            f"{what} has no buildah, which builds a Dockerfile: install it (apt install buildah, dnf install "
            f"buildah). {instead}",
            "BuildahMissing",
            TARGET,
        )
    if os.geteuid() != 0 and rules.helper is None:
        raise InvalidRequest(
            f"{what} runs the server as an ordinary user, who has one user id to give to a build. A RUN "
            f"needs more: buildah sets its groups, which Linux forbids there. Let root start the server "
            f"(sudo tidemill up). {instead}",
            "BuildRefused",
            TARGET,
        )
    why = rules.sandboxing().why_not
    if why:
        raise InvalidRequest(
            f"{what} has no sandbox to build it in ({why}); a Dockerfile is never built without "
            f"one. {instead}",
            "BuildRefused",
            TARGET,
        )
    return os.path.realpath(program)


def _folder(root: Path, *names: str) -> int:
    """A descriptor of a folder that no link leads to."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.open(root, flags)
    for name in names:
        above = here
        try:
            here = os.open(name, flags, dir_fd=above)
        finally:
            os.close(above)
    return here


def _move(name: str, here: int, target: Path) -> None:
    os.rename(name, target / name, src_dir_fd=here)
    file = os.open(target / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        info = os.fstat(file)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            raise _disorder(f"{name[:12]} is no plain file")
        os.fchown(file, os.geteuid(), os.getegid())
        os.fchmod(file, 0o644)
    finally:
        os.close(file)


def _disorder(problem: str) -> InvalidRequest:
    return InvalidRequest(f"The build left no image that can be read: {problem}.", "ImageBuildFailed", TARGET)


def _size(folder: Path) -> int:
    """Bytes on disk; what vanishes meanwhile counts nothing."""
    total = 0
    for _, _, files, here in os.fwalk(folder, onerror=None):
        for name in files:
            try:
                total += os.stat(name, dir_fd=here, follow_symlinks=False).st_blocks * 512
            except OSError:
                continue
    return total
