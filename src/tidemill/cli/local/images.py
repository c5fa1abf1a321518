"""What `docker build` makes here: an environment of this machine's Python, known by a tag.

FOLDER/envs/             environments (environments/builder.py)
FOLDER/images/ID.json    an image
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO

from tidemill.catalog.curated import CuratedCatalog
from tidemill.cli.local import dockerfile
from tidemill.domain.errors import InvalidRequest, NotFound
from tidemill.environments import spec
from tidemill.environments.box import Confinement
from tidemill.environments.builder import EnvironmentBuilder
from tidemill.environments.images import rules

MAX_TEXT = 1 << 20  # bytes of a Dockerfile or a conda file


@dataclass(frozen=True, slots=True)
class Image:
    """`digest` of its environment; `variables` that it sets."""

    id: str
    tag: str
    digest: str
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    created: float = 0.0


class Images:
    def __init__(self, folder: Path) -> None:
        self._folder = folder / "images"
        # It is the user's own code on the user's own machine: packages are built as pip would build them.
        self._builder = EnvironmentBuilder(
            folder / "envs", lambda: time.time_ns() // 1000, confinement=Confinement(unconfined=True)
        )

    async def build(self, context: IO[bytes], name: str, tag: str, say: Callable[[str], None]) -> Image:
        """Of a tar with the Dockerfile `name` in it. Raises TidemillError with what is wrong where."""
        recipe = dockerfile.read(_member(context, name))
        conda = _member(context, recipe.conda) if recipe.conda else None
        wanted = spec.from_arm(
            {"image": recipe.image, "condaFile": conda}, tag, "1", CuratedCatalog(), rules.PREFER_HOST
        )
        instead = wanted.host_instead and "there is no Docker here"
        wanted = replace(wanted, pip=(*wanted.pip, *recipe.pip), host_instead=instead)
        built = await self._builder.ensure(wanted, say)
        for note in built.notes:
            say(note)
        variables = {**wanted.variables, **dict(recipe.variables)}
        number = hashlib.sha256(f"{built.digest} {tag}".encode()).hexdigest()
        image = Image(f"sha256:{number}", _full(tag), built.digest, variables, time.time())
        self._folder.mkdir(exist_ok=True)
        made = self._folder / f".{number}"
        made.write_text(json.dumps(asdict(image)), "utf-8")
        os.replace(made, self._path(image.tag))
        return image

    def find(self, name: str) -> Image:
        """By its tag or id. Raises NotFound."""
        for image in self.all():
            if name in (image.tag, image.id) or _full(name) == image.tag:
                return image
        raise NotFound(f"No such image: {name}", "ImageNotFound")

    def all(self) -> list[Image]:
        return [Image(**json.loads(path.read_text("utf-8"))) for path in sorted(self._folder.glob("*.json"))]

    def python_of(self, image: Image) -> Path:
        """Raises NotFound once its environment is gone."""
        built = self._builder.find(image.digest)
        if built is None:
            raise NotFound(f"The environment of {image.tag} is gone: deploy it again.", "ImageNotFound")
        return built.python

    def _path(self, tag: str) -> Path:
        return self._folder / f"{hashlib.sha256(tag.encode()).hexdigest()}.json"


def _full(tag: str) -> str:
    return tag if ":" in tag.rpartition("/")[2] else f"{tag}:latest"


def _member(context: IO[bytes], name: str) -> str:
    context.seek(0)
    wanted = os.path.normpath(name)
    try:
        with tarfile.open(fileobj=context) as tar:
            for member in tar:
                if os.path.normpath(member.name) == wanted and member.isfile():
                    file = tar.extractfile(member)
                    if file is None or member.size > MAX_TEXT:
                        break
                    return file.read().decode(errors="replace")
    except tarfile.TarError as error:
        raise InvalidRequest(f"The build context is no tar file: {error}.", "InvalidBuildContext") from None
    raise InvalidRequest(
        f"There is no file {name!r} of at most 1 MiB in the build context.", "InvalidBuildContext"
    )
