"""What the jobs of a node may reach beyond it: a policy in one line, decided on plain values.

    closed                                   nothing (also: an empty line)
    internet                                 every public address
    pypi.org *.pythonhosted.org:443 10.1.2.0/24:8080     what is listed, separated by spaces or commas

A name is never resolved unless it may be asked for. Whatever it resolves to, private, link-local, loopback
and this host's own addresses are reached only where they are listed as addresses: a name is somebody else's
word.
"""

from __future__ import annotations

import ipaddress
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    Address = ipaddress.IPv4Address | ipaddress.IPv6Address
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

CLOSED, INTERNET = "closed", "internet"
_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LONGEST = 4096


class Policy:
    """`names`: (name or "*.suffix", port or 0); `networks`: (network, port or 0)."""

    __slots__ = ("internet", "names", "networks")

    def __init__(self) -> None:
        self.internet = False
        self.names: list[tuple[str, int]] = []
        self.networks: list[tuple[Network, int]] = []

    @property
    def closed(self) -> bool:
        return not (self.internet or self.names or self.networks)

    def refuses_name(self, host: str, port: int) -> str:
        """Why this host may not be asked for, or "". Of an address nothing is said here."""
        if self.internet or _address(host) is not None:
            return ""
        name = host.lower().rstrip(".")
        if any(_matches(name, rule) and allowed in (0, port) for rule, allowed in self.names):
            return ""
        return f"{host}:{port} is not on the list of what this compute may reach"

    def refuses_address(self, host: str, port: int, address: str, own: bool) -> str:
        """Why `host`, which may be asked for, is not reached at this address, or "". `own`: the address is
        this host's."""
        found = _address(address)
        if found is None:
            return f"{address!r} is not an address"
        listed = any(found in network and allowed in (0, port) for network, allowed in self.networks)
        if listed:
            return ""
        if own or not _public(found):
            return f"{host} is {address}, which is not a public address, and not listed"
        if _address(host) is not None and not self.internet:
            return f"{host}:{port} is not on the list of what this compute may reach"
        return ""


def parse(text: str) -> Policy:
    """Raises ValueError with a sentence that names the entry and the fix."""
    policy = Policy()
    if len(text) > _LONGEST:
        raise ValueError(f"it is longer than {_LONGEST} characters")
    words = text.replace(",", " ").split()
    if words in ([], [CLOSED]):
        return policy
    if words == [INTERNET]:
        policy.internet = True
        return policy
    for word in words:
        if word in (CLOSED, INTERNET):
            raise ValueError(f"{word!r} stands alone: it cannot be one of several entries")
        host, port = _split(word)
        network = _network(host)
        if network is not None:
            policy.networks.append((network, port))
        elif _NAME.match(host.lower()) and not host.replace(".", "").isdigit():
            policy.names.append((host.lower(), port))
        else:
            raise ValueError(
                f"{word!r} is no entry: write a name (pypi.org), a suffix (*.pythonhosted.org), an address "
                "or a network (10.1.2.0/24), each with a port if only that (pypi.org:443)"
            )
    return policy


def split_target(text: str, otherwise: int = 0) -> tuple[str, int]:
    """`host:port` or `[v6]:port` -> both. Raises ValueError."""
    host, port = _split(text)
    if not host or not (port or otherwise):
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), port or otherwise


def _split(word: str) -> tuple[str, int]:
    """An entry's host and port (0: any)."""
    host, colon, port = word.rpartition(":")
    if not colon or word.endswith("]") or (":" in host and not host.endswith("]")):
        return word, 0
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{word!r} has no port between 1 and 65535")
    return host, int(port)


def _matches(name: str, rule: str) -> bool:
    return name.endswith(rule[1:]) if rule.startswith("*.") else name == rule


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return None


def _public(address: Address) -> bool:
    """Also of what an IPv6 address leads to: an IPv4 one inside it."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return _public(inner)
    return address.is_global and not address.is_multicast
