"""Azure's curated environments by the names its examples use: each stands for a list of packages.

A curated environment is not its image here, unless images are required: it is a Python with the packages
that jobs written for that image import, so that it works offline. What differs is said in `note`, so that an
event can tell the user.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from importlib import resources

from tidemill.domain.errors import NotFound

PYTHON = ">=3.10,<3.13"
PREFIX = "AzureML-"
_REFERENCE = re.compile(
    r"^(?:azureml:)?(?://registries/[^/]+/|/?subscriptions/.+/|//subscriptions/.+/|//locations/.+/)"
    r"environments/(?P<name>[^/:@]+)(?:/(?:versions|labels)/(?P<version>[^/]+))?/?$",
    re.IGNORECASE,
)
_SHORT = re.compile(r"^(?:azureml:)?(?P<name>[A-Za-z0-9][\w.\-]*)(?:[:@](?P<version>[\w.\-]+))?$")
_IMAGE = re.compile(r"^mcr\.microsoft\.com/azureml/(?:curated/)?(?P<name>[^/:@]+)(?:[:@].*)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CuratedEnvironment:
    """`requested` and `version` are what was asked for; `name` is the entry that answers."""

    name: str
    pip: tuple[str, ...]
    python: str = PYTHON  # versions, as conda and PEP 440 write them: "3.10", ">=3.10,<3.13"
    note: str = ""
    requested: str = ""
    version: str = "1"

    @property
    def image(self) -> str:
        return f"mcr.microsoft.com/azureml/curated/{self.name}"

    @property
    def azure_name(self) -> str:
        """The name in a workspace: `AzureML-sklearn-1.5`."""
        return PREFIX + self.name

    def conda_text(self) -> str:
        """The same environment as a conda file: what GET shows and what is built."""
        python = f"python={self.python}" if self.python[0].isdigit() else f"python{self.python}"
        lines = [f"name: {self.name}", "dependencies:", f'  - "{python}"', "  - pip:"]
        return "\n".join([*lines, *(f'      - "{line}"' for line in self.pip)]) + "\n"

    def notes(self) -> tuple[str, ...]:
        """Sentences on what is used instead of the image."""
        asked = _bare(self.requested or self.name)
        used = f"The image of {asked} is replaced by {len(self.pip)} packages from the Python package index"
        listed = "" if asked == self.name else f" (the list of {self.name})"
        return (f"{used}{listed}." + (f" {self.note}." if self.note else ""),)


class CuratedCatalog:
    """Curated environments by name, registry URI, ARM id or image. The file is read on first use."""

    def find(self, reference: str) -> CuratedEnvironment | None:
        """None when the reference names no curated environment.

        Takes `AzureML-sklearn-1.5`, `…@latest`, `…:3`, `azureml:…`, `azureml://registries/R/environments/N/
        versions/V`, `…/labels/latest`, an ARM id of an environment version. Every version is answered by the
        same list: the catalogue has one.
        """
        match = _REFERENCE.match(reference) or _SHORT.match(reference)
        if match is None:
            return None
        return self._named(match["name"], match["version"] or "")

    def find_image(self, image: str) -> CuratedEnvironment | None:
        """The environment whose image this is (`mcr.microsoft.com/azureml/curated/sklearn-1.5:12`)."""
        match = _IMAGE.match(image)
        return None if match is None else self._named(match["name"], "")

    def require(self, reference: str) -> CuratedEnvironment:
        """Raises NotFound naming curated environments that exist and look like the reference."""
        found = self.find(reference)
        if found is None:
            raise NotFound(self.unknown(reference), "EnvironmentNotFound", "environmentId")
        return found

    def unknown(self, reference: str) -> str:
        """The sentence for a reference that names no curated environment."""
        match = _REFERENCE.match(reference) or _SHORT.match(reference)
        asked = _bare(match["name"]).casefold() if match else reference.casefold()
        near = difflib.get_close_matches(asked, self.names(), 3, 0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        return (
            f"Curated environment {reference!r} is not known here: {hint}There are {', '.join(self.names())}."
        )

    def names(self) -> list[str]:
        return list(self._entries)

    def list(self) -> list[CuratedEnvironment]:
        return [environment for environment, _ in self._entries.values()]

    def _named(self, name: str, version: str) -> CuratedEnvironment | None:
        bare = _bare(name).casefold()
        exact = self._entries.get(bare)
        found = exact[0] if exact else self._matched(bare)
        if found is None:
            return None
        known = version.isdigit()
        return replace(found, requested=name, version=version if known else found.version)

    def _matched(self, bare: str) -> CuratedEnvironment | None:
        for environment, patterns in self._entries.values():
            if any(_fits(bare, pattern) for pattern in patterns):
                return environment
        return None

    @cached_property
    def _entries(self) -> dict[str, tuple[CuratedEnvironment, tuple[str, ...]]]:
        import tomllib

        text = resources.files("tidemill.catalog").joinpath("data", "curated.toml").read_text("utf-8")
        return {
            entry["name"]: (
                CuratedEnvironment(
                    entry["name"], tuple(entry["pip"]), entry.get("python", PYTHON), entry.get("note", "")
                ),
                tuple(entry["match"]),
            )
            for entry in tomllib.loads(text)["environment"]
        }


def _fits(bare: str, pattern: str) -> bool:
    """`sklearn-1.5*` stands for 1.5 and whatever is called after it, but not for another version, 1.55."""
    if not fnmatchcase(bare, pattern):
        return False
    stem = pattern.removesuffix("*")
    return "*" in stem or not (stem[-1:].isdigit() and bare[len(stem) : len(stem) + 1].isdigit())


def _bare(name: str) -> str:
    return name[len(PREFIX) :] if name.casefold().startswith(PREFIX.casefold()) else name
