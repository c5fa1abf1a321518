"""What an environment is made of, from the forms users write it in."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.environments.conda import parse_conda
from tidemill.environments.images import rules

if TYPE_CHECKING:
    from tidemill.catalog.curated import CuratedCatalog, CuratedEnvironment


@dataclass(frozen=True, slots=True)
class BuildContext:
    """`uri`: of its folder; `dockerfile`: a path in it."""

    uri: str
    dockerfile: str = "Dockerfile"


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """Conda file and/or pip lines, installed into one environment; neither: a plain Python.

    `in_image`: it is `image` with these packages; else `image` is only named in notes, and `host_instead`
    says why. `build`: the image is built from that.
    `notes` say what is used instead of what was asked, as far as it is known without building.
    """

    conda: str | None = None
    pip: tuple[str, ...] = ()
    image: str | None = None
    name: str = ""
    version: str = ""
    variables: Mapping[str, str] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    in_image: bool = False
    host_instead: str = field(default="", compare=False)
    build: BuildContext | None = None


def from_arm(
    properties: Mapping[str, Any],
    name: str,
    version: str,
    curated: CuratedCatalog | None = None,
    images: str = rules.USE,
) -> EnvironmentSpec:
    """`properties` of an ARM environment version: {condaFile, image, build, …}; `images`: one of rules.MODES.

    Raises InvalidRequest for a conda file that cannot be read (with line and column), a build context beside
    another source, or a version without any; NotOffered for a build context where the host stands in for
    images.
    """
    conda, image, build = properties.get("condaFile"), properties.get("image"), properties.get("build")
    if build:
        return _from_build(build, bool(conda or image), name, version, images)
    for value, key in ((conda, "condaFile"), (image, "image")):
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(
                f"Environment {name}:{version}: {key} is a text.", target=f"properties.{key}"
            )
    if not conda and not image:
        raise InvalidRequest(
            f"Environment {name}:{version} has neither an image nor a conda file: give at least one.",
            "InvalidEnvironment",
            "properties",
        )
    known = curated.find_image(image) if curated and image and not conda else None
    if known is not None:
        return from_curated(known, name, version, images)
    variables = dict(parse_conda(conda).variables) if conda else {}
    instead = rules.host_instead(images, image, bool(conda)) if image else ""
    in_image = bool(image) and not instead
    return EnvironmentSpec(
        conda or None, (), image or None, name, version, variables, in_image=in_image, host_instead=instead
    )


def _from_build(
    build: Mapping[str, Any] | object, more: bool, name: str, version: str, images: str
) -> EnvironmentSpec:
    given: Mapping[str, Any] = build if isinstance(build, Mapping) else {}
    uri, dockerfile = given.get("contextUri"), given.get("dockerfilePath") or "Dockerfile"
    if not isinstance(uri, str) or not uri or not isinstance(dockerfile, str):
        raise InvalidRequest(
            f"Environment {name}:{version}: build is {{contextUri, dockerfilePath}}, two texts.",
            "InvalidEnvironment",
            "properties.build",
        )
    if more:
        raise InvalidRequest(
            f"Environment {name}:{version} has a build context and an image or a conda file: give one of "
            "them. What the Dockerfile starts from is its FROM; packages are installed by its RUN.",
            "InvalidEnvironment",
            "properties.build",
        )
    path = posixpath.normpath(dockerfile)
    if path.startswith(("/", "..")) or "\0" in path:
        raise InvalidRequest(
            f"Environment {name}:{version}: dockerfilePath {dockerfile!r} leads out of the build context.",
            "InvalidEnvironment",
            "properties.build.dockerfilePath",
        )
    if images == rules.PREFER_HOST:
        raise NotOffered(
            f"Environment {name}:{version} is a Docker build context ({uri}), and on this server the host "
            "stands in for images (images: prefer-host), which it cannot do for a Dockerfile. Write its "
            "Python packages as a conda file (conda_file:), or run the server with --images use.",
            "properties.build",
        )
    image = f"Dockerfile of {name}:{version}"
    return EnvironmentSpec(
        image=image, name=name, version=version, in_image=True, build=BuildContext(uri, path)
    )


def from_curated(
    curated: CuratedEnvironment, name: str = "", version: str = "", images: str = rules.USE
) -> EnvironmentSpec:
    """The package list that stands for a curated environment, as a conda file; its image where images are
    required."""
    if images == rules.REQUIRE:
        image = f"{curated.image}:{curated.version}" if curated.requested else curated.image
        return EnvironmentSpec(image=image, name=name or curated.name, version=version, in_image=True)
    return EnvironmentSpec(
        conda=curated.conda_text(),
        name=name or curated.requested or curated.name,
        version=version or curated.version,
        notes=curated.notes(),
    )


def from_requirements(text: str, name: str = "", version: str = "") -> EnvironmentSpec:
    """The text of a pip requirements file. Lines are checked when the environment's key is asked for."""
    return EnvironmentSpec(pip=tuple(text.splitlines()), name=name, version=version)
