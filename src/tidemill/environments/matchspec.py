"""Conda's match specifications -> PEP 440 specifiers. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEAD = re.compile(r"^([A-Za-z0-9_][A-Za-z0-9_.\-]*)\s*(.*)$", re.DOTALL)
_BRACKET = re.compile(r"^(?P<rest>[^\[]*)\[(?P<pairs>.*)\]$")
_PAIR = re.compile(r"""(\w+)\s*=\s*(?:'([^']*)'|"([^"]*)"|([^,'"\]]+))""")
_ATOM = re.compile(r"^(==|!=|>=|<=|~=|=|>|<|)\s*([0-9][A-Za-z0-9.!+_]*?)(\.?\*)?$")


@dataclass(frozen=True, slots=True)
class MatchSpec:
    """`specifier` is PEP 440 ("" = any version); `build` is conda's build string."""

    name: str
    specifier: str = ""
    build: str = ""


def parse(text: str) -> MatchSpec:
    """`conda-forge::numpy=1.21=py39_0` -> MatchSpec("numpy", "==1.21.*", "py39_0"). Raises ValueError with a
    sentence for what has no equivalent."""
    spec = text.strip().rpartition("::")[2].strip()
    version, build = None, ""
    bracket = _BRACKET.match(spec)
    if bracket is not None:
        pairs = {key: a or b or c for key, a, b, c in _PAIR.findall(bracket["pairs"])}
        spec, version, build = bracket["rest"].strip(), pairs.get("version"), pairs.get("build", "")
    head = _HEAD.match(spec)
    if head is None:
        raise ValueError(f"{text!r} is not a conda specification: write name, name=1.2 or name>=1.2,<2")
    name, rest = head[1].lower(), head[2].strip()
    if version is None:
        version, found = _split(rest)
        build = build or found
    return MatchSpec(name, _specifier(version, text), build)


def _split(rest: str) -> tuple[str, str]:
    """What follows the name -> (version, build). A version after a space is exact, after "=" a prefix."""
    joined = re.sub(r"\s*(==|!=|>=|<=|~=|=|>|<|,|\|)\s*", r"\1", rest)
    version, _, build = joined.partition(" ")
    exact = re.match(r"^(={1,2})([^=<>!~,|]+)=(.+)$", version)
    if exact is not None:
        return exact[1] + exact[2], exact[3]
    return version, build.strip()


def _specifier(version: str, text: str) -> str:
    if "|" in version:
        raise ValueError(
            f"{text!r} has alternatives ('|'), which pip's versions cannot express: choose one range"
        )
    atoms = [_atom(part.strip(), text) for part in version.split(",")] if version else []
    return ",".join(atom for atom in atoms if atom)


def _atom(part: str, text: str) -> str:
    if part in ("", "*", "=*", "==*"):
        return ""
    match = _ATOM.match(part)
    if match is None:
        raise ValueError(f"{text!r}: {part!r} is not a version range: write =1.2, ==1.2.3 or >=1.2,<2")
    operator, number, star = match[1], match[2].rstrip("."), bool(match[3])
    if operator == "=" or (star and operator in ("", "==")):
        return f"=={number}.*"
    if operator in ("", "=="):
        return f"=={number}"
    return f"!={number}.*" if star and operator == "!=" else f"{operator}{number}"
