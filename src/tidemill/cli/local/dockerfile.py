"""The Dockerfile that azure-ai-ml writes for a local deployment, read as an environment.

Its `_local_endpoints/dockerfile_resolver.py` writes FROM an image, a conda environment made of a file, and a
CMD that starts Azure's own server. Here the host's Python stands in for the image, our server for that one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from tidemill.domain.errors import InvalidRequest

CONDA = ("conda", "mamba", "micromamba")
STARTS = ("runsvdir", "azmlinfsrv", "supervisord")  # Azure's images start their server by one of these


@dataclass(frozen=True, slots=True)
class Recipe:
    """`conda`: a file of the build context; `pip`: what is installed beside it."""

    image: str = ""
    conda: str = ""
    pip: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


def read(text: str) -> Recipe:
    """Raises InvalidRequest, with the line, for what only a real image could do."""
    recipe = Recipe()
    for number, word, rest in _instructions(text):
        take = _TAKEN.get(word)
        taken = take(recipe, rest) if take else None
        if taken is None:
            raise InvalidRequest(
                f"Dockerfile, line {number}: `{word} {rest}` needs a real image, and there is no Docker "
                "here: a local deployment runs on this machine's Python, with packages of a conda file. Put "
                "what it needs into a conda file, or deploy it to an online endpoint (local=False): images "
                "run there.",
                "DockerfileNotSupported",
            )
        recipe = taken
    if not recipe.image:
        raise InvalidRequest("The Dockerfile has no FROM.", "DockerfileNotSupported")
    return recipe


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, instruction in capitals, the rest with its continued lines."""
    begun, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        begun = begun or number
        parts.append(bare.removesuffix("\\").strip())
        if not bare.endswith("\\"):
            word, _, rest = " ".join(parts).partition(" ")
            yield begun, word.upper(), rest.strip()
            begun, parts = 0, []


def _from(recipe: Recipe, rest: str) -> Recipe | None:
    words = [word for word in rest.split() if not word.startswith("--")]
    return replace(recipe, image=words[0]) if words and not recipe.image else None


def _run(recipe: Recipe, rest: str) -> Recipe | None:
    for command in re.split(r"\s*&&\s*", rest):
        try:
            words = shlex.split(command)
        except ValueError:
            return None
        taken = _command(recipe, words)
        if taken is None:
            return None
        recipe = taken
    return recipe


def _command(recipe: Recipe, words: list[str]) -> Recipe | None:
    if words[:1] == ["mkdir"]:
        return recipe
    if len(words) > 3 and words[0] in CONDA and words[1:3] == ["env", "create"]:
        names = [after for flag, after in pairwise(words) if flag in ("-f", "--file")]
        return replace(recipe, conda=names[0]) if len(names) == 1 else None
    if len(words) > 4 and words[0] in CONDA and words[1:3] == ["run", "-n"]:
        words = words[4:]
    if words[:2] == ["pip", "install"] and len(words) > 2:
        wanted = [word for word in words[2:] if word not in ("--no-cache-dir", "-q", "--upgrade", "-U")]
        return None if any(w.startswith("-") for w in wanted) else replace(recipe, pip=(*recipe.pip, *wanted))
    return None


def _env(recipe: Recipe, rest: str) -> Recipe | None:
    try:
        words = shlex.split(rest)
    except ValueError:
        return None
    if words and "=" not in words[0]:
        words = [f"{words[0]}={' '.join(words[1:])}"]
    pairs = [(name, value) for name, equals, value in (word.partition("=") for word in words) if equals]
    return replace(recipe, variables=(*recipe.variables, *pairs)) if len(pairs) == len(words) else None


def _start(recipe: Recipe, rest: str) -> Recipe | None:
    return recipe if any(name in rest for name in STARTS) else None


def _nothing(recipe: Recipe, _: str) -> Recipe | None:
    return recipe


_TAKEN: dict[str, Callable[[Recipe, str], Recipe | None]] = {
    "FROM": _from,
    "RUN": _run,
    "ENV": _env,
    "CMD": _start,
    "ENTRYPOINT": _start,
    "COPY": lambda recipe, rest: recipe if len(rest.split()) == 2 else None,  # of the conda file
    "WORKDIR": _nothing,
    "EXPOSE": _nothing,
    "LABEL": _nothing,
    "USER": _nothing,
}
