"""What a job sees of its environment: the files it runs among, where its programs are, what it is told."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tidemill.app.services import Services
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.launch import DEFAULT_PATH
from tidemill.domain.plan import JobPlan, PlannedEnvironment
from tidemill.environments import overlay
from tidemill.environments.built import BuiltEnvironment
from tidemill.environments.images.unpacked import UnpackedImage

BASH = "/bin/bash"


@dataclass(frozen=True, slots=True)
class View:
    """`rootfs` "" is the host's own view; `shell` runs the command; `variables` come from the environment;
    `read_only` are paths that every rank reads; `mpirun` and `ray` "" where there is none. `path` is PATH
    but for the job's own folders, and `own_venv` says that it has a virtual environment among them."""

    path: str
    read_only: tuple[str, ...]
    rootfs: str = ""
    shell: str = BASH
    variables: dict[str, str] = field(default_factory=dict[str, str])
    mpirun: str = ""
    ray: str = ""
    own_venv: bool = False
    command: tuple[str, ...] = ()  # the image's own
    working_dir: str = ""  # the image's

    def told(self, root: str) -> dict[str, str]:
        """Of its environment and its programs, for a job whose directory is `root`."""
        own = [f"{root}/{overlay.VENV}/bin"] if self.own_venv else []
        path = ":".join([*own, f"{root}/.local/bin", self.path])  # the last one is where pip installs without
        return {**self.variables, **(overlay.variables(root) if self.own_venv else {}), "PATH": path}

    def argv(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        """A rank's command line, with the shell that there is here. Its last word is the user's command."""
        return (*(self.shell if word == BASH else word for word in argv[:-1]), argv[-1])


def view_of(s: Services, plan: JobPlan) -> View:
    """Raises InvalidRequest where something of the environment is gone, or lacks what the job needs."""
    view = _in_image(s, plan) if plan.environment.in_image else _on_host(s, plan.environment)
    kind = plan.job.distribution.kind
    if kind == "mpi" and not view.mpirun:
        where = f"image {plan.environment.image}" if view.rootfs else "this host"
        raise InvalidRequest(
            f"The job's distribution is mpi, but {where} has no mpirun. Install an MPI "
            "(Debian: openmpi-bin) or use the pytorch distribution.",
            "MpiMissing",
        )
    if kind == "ray" and not view.ray:
        raise InvalidRequest(
            "The job's distribution is ray, but its environment has no ray. "
            "Add 'ray[default]' to its pip list.",
            "RayMissing",
        )
    return view


def _on_host(s: Services, planned: PlannedEnvironment) -> View:
    bin_dir, reads = Path(sys.base_prefix) / "bin", [sys.base_prefix, str(s.settings.ca_bundle)]
    variables = {"LANG": os.environ.get("LANG", "C.UTF-8")}
    if planned.digest:
        built = _built(s, planned, planned.digest)
        bin_dir = Path(built.bin_dir)
        reads += [str(built.path), str(built.base_prefix)]
    path = f"{bin_dir}:{DEFAULT_PATH}"
    return View(
        path=path,
        read_only=tuple(dict.fromkeys(reads)),
        variables=variables,
        mpirun=shutil.which("mpirun", path=path) or "",
        ray=_program(bin_dir, "ray"),
        own_venv=bool(planned.digest),
    )


def _in_image(s: Services, plan: JobPlan) -> View:
    """Azure ML runs the command in the image's shell: entry point and working directory are not used, but for
    a deployment whose image has a server of its own, and for containers of groups."""
    planned = plan.environment
    image = _image(s, planned)
    variables = {"LANG": "C.UTF-8", **dict(image.env)}
    path, reads, ray = image.path, [str(s.settings.ca_bundle)], "ray" if "ray" in image.programs else ""
    if planned.packages:
        built = _built(s, planned, planned.built)
        path = f"{built.bin_dir}:{path}"
        reads.append(str(built.path))
        reads += [str(built.base_prefix)] if s.environments.manages(built.base_prefix) else []
        ray = ray or _program(built.bin_dir, "ray")
    own_program = plan.group is not None or (plan.service is not None and plan.service.container is not None)
    if not image.shell and not own_program:
        raise InvalidRequest(
            f"Image {planned.image} has no shell (bash or sh) to run the command in: use one that has.",
            "ShellMissing",
        )
    return View(
        path=path,
        read_only=tuple(reads),
        rootfs=str(image.root),
        shell=image.shell,
        variables=variables,
        mpirun="mpirun" if "mpirun" in image.programs else "",
        ray=ray,
        own_venv=planned.packages,
        command=(*image.entrypoint, *image.cmd),
        working_dir=image.working_dir,
    )


def built_environment(s: Services, planned: PlannedEnvironment) -> BuiltEnvironment | None:
    """None: it has none of its own, or it is not there any more."""
    digest = planned.built if planned.in_image else planned.digest
    return s.environments.find(digest) if digest else None


def _program(folder: Path, name: str) -> str:
    return name if os.path.lexists(folder / name) else ""


def _built(s: Services, planned: PlannedEnvironment, digest: str) -> BuiltEnvironment:
    built = s.environments.find(digest)
    if built is None:
        raise InvalidRequest(
            f"Environment {planned.label} is not built any more. Submit the job again.", "EnvironmentMissing"
        )
    return built


def _image(s: Services, planned: PlannedEnvironment) -> UnpackedImage:
    image = s.images.find(planned.image_digest)
    if image is None:
        raise InvalidRequest(
            f"Image {planned.image} ({planned.image_digest}) is not here any more. Submit the job again.",
            "EnvironmentMissing",
        )
    return image
