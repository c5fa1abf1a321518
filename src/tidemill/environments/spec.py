"""What an environment is made of, from the forms users write it in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.environments.conda import parse_conda
from tidemill.environments.images import rules

if TYPE_CHECKING:
    from tidemill.catalog.curated import CuratedCatalog, CuratedEnvironment


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """Conda file and/or pip lines, installed into one environment; neither: a plain Python.

    `in_image`: it is `image` with these packages; else `image` is only named in notes, and `host_instead`
    says why. `notes` say what is used instead of what was asked, as far as it is known without building.
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


def from_arm(
    properties: Mapping[str, Any],
    name: str,
    version: str,
    curated: CuratedCatalog | None = None,
    images: str = rules.USE,
) -> EnvironmentSpec:
    """`properties` of an ARM environment version: {condaFile, image, build, …}; `images`: one of rules.MODES.

    Raises NotOffered for a Docker build context, InvalidRequest for a conda file that cannot be read (with
    line and column) or a version without any source.
    """
    conda, image, build = properties.get("condaFile"), properties.get("image"), properties.get("build")
    if build:
        where = build.get("contextUri") if isinstance(build, Mapping) else build
        raise NotOffered(
            f"Environment {name}:{version} is a Docker build context ({where}), and nothing here builds a "
            "Dockerfile: its steps need more rights than a build has here. Build the image elsewhere "
            "(docker build, buildah bud) and name it (image: registry/name:tag, or oci:/path), or write its "
            "Python packages as a conda file (conda_file:).",
            "properties.build",
        )
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
