"""Where the server listens, and by which names it is known: what `--listen` and `--name` may say, and which
Host headers are its own.

A Host header with another name is a page of another site whose name was made to resolve here (DNS rebinding):
its scripts would reach this server with the browser's rights.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tidemill.domain.errors import InvalidRequest

LOOPBACK = ("127.0.0.1", "::1")  # always listened on
LOCAL_NAMES = ("localhost", *LOOPBACK)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


@dataclass(frozen=True, slots=True)
class Listening:
    """`addresses` beside loopback, `names` beside localhost: host names and IP addresses in their canonical
    spelling, as certificates and Host headers have them."""

    addresses: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def hosts(self) -> frozenset[str]:
        """Every name that a Host header may have."""
        return frozenset((*LOCAL_NAMES, *self.names))


def plan(listen: Sequence[str], names: Sequence[str]) -> Listening:
    """What these words of `--listen` and `--name` mean. Addresses that are listened on are names, too. Raises
    InvalidRequest naming the word, and the flag that is missing."""
    addresses = addresses_of(listen)
    wanted = [n for n in map(_name, _words(names)) if n not in LOCAL_NAMES]
    wanted += [a for a in addresses if not ipaddress.ip_address(a).is_unspecified]
    if addresses and not wanted:
        raise InvalidRequest(
            f"--listen {','.join(addresses)} takes every address of this machine, so its certificate "
            "needs the names that others reach it by. Add: --name HOST[,HOST]",
            target="--name",
        )
    if names and wanted and not addresses:
        raise InvalidRequest(
            f"--name {','.join(wanted)} says how others reach this server, but it listens on loopback only. "
            "Add: --listen ADDRESS[,ADDRESS], or leave --name out.",
            target="--listen",
        )
    return Listening(addresses, tuple(dict.fromkeys(wanted)))


def addresses_of(listen: Sequence[str]) -> tuple[str, ...]:
    """The addresses beside loopback. Raises InvalidRequest for a word that is none."""
    return tuple(dict.fromkeys(a for a in map(_address, _words(listen)) if a not in LOCAL_NAMES))


def host_of(header: str) -> str | None:
    """The name in a Host header, in lower case, without port and brackets; None for what is none."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]+))(?::(\d{1,5}))?", header)
    if match is None:
        return None
    if match[1] is None:
        return match[2].lower()
    try:
        return str(ipaddress.IPv6Address(match[1]))
    except ValueError:
        return None


def misdirected(header: str, hosts: Iterable[str]) -> str | None:
    """Why a request with this Host header is not for a server of those names; None when it is."""
    name = host_of(header)
    if name is not None and name in hosts:
        return None
    known = ", ".join(sorted(hosts))
    if not header:
        return f"The request has no Host header. This server is known as: {known}."
    return (
        f"{header[:253]!r} is not a name of this server, which is known as: {known}. Use one of them, "
        "or start the server with --listen and --name for that name."
    )


def _words(given: Sequence[str]) -> list[str]:
    return [word.strip() for text in given for word in text.split(",") if word.strip()]


def _address(word: str) -> str:
    if word.lower() == "localhost":
        return "localhost"
    try:
        return str(ipaddress.ip_address(word.strip("[]")))
    except ValueError:
        raise InvalidRequest(
            f"--listen {word!r} is no IP address. Give one that this machine has (ip address shows "
            "them), 0.0.0.0 or :: for all of them, or localhost for none beside loopback.",
            target="--listen",
        ) from None


def _name(word: str) -> str:
    try:
        return str(ipaddress.ip_address(word.strip("[]")))
    except ValueError:
        pass
    name = word.lower().removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise InvalidRequest(
            f"--name {word!r} is no host name: letters, digits and hyphens between dots, without a port.",
            target="--name",
        )
    return name
