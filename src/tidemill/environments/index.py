"""The server's own settings of uv: its package indexes, and what a sandbox is shown of them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_CONFIGS = (Path("~/.config/uv/uv.toml"), Path("/etc/uv/uv.toml"))
# uv's own, where nothing else is the default: wherever the server's names lead there (a mirror, often).
_DEFAULTS = (("pypi.org", 443), ("files.pythonhosted.org", 443))
_OTHER_DEFAULT = re.compile(r"^\s*(index-url|no-index|default)\s*=", re.MULTILINE)
_ADDRESS = re.compile(r"https?://[^\s\"',<>]+")


@dataclass(frozen=True, slots=True)
class Settings:
    """`whole`: the environment of a uv outside of any sandbox; `uv`: what one inside is told; `proxies` of
    the server; `files` that those name; `hosts`: (host, port) of the indexes."""

    whole: Mapping[str, str]
    uv: Mapping[str, str]
    proxies: Mapping[str, str]
    files: tuple[str, ...]
    hosts: tuple[tuple[str, int], ...]


def settings(env: Mapping[str, str]) -> Settings:
    given = {name: value for name, value in env.items() if name.startswith("UV_") or name in _CERTIFICATES}
    given["NO_COLOR"] = "1"
    config = next((path for path in map(Path.expanduser, _CONFIGS) if path.is_file()), None)
    if config is not None:
        given.setdefault("UV_CONFIG_FILE", str(config))
    text = ""
    with suppress(OSError, KeyError, ValueError):
        text = Path(given["UV_CONFIG_FILE"]).read_text("utf-8")
    named = [given[name] for name in (*_CERTIFICATES, "UV_CONFIG_FILE") if name in given]
    words = [text, *(value for name, value in given.items() if name.startswith("UV_"))]
    proxies = {name: value for name, value in env.items() if name.upper() in _PROXIES}
    files = (*named, *_local_links(given, text))
    hosts = _hosts(" ".join(words))
    chosen = {"UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_NO_INDEX"} & given.keys()
    if not chosen and not _OTHER_DEFAULT.search(text):
        hosts = (*hosts, *_DEFAULTS)
    return Settings(env, given, proxies, files, hosts)


def encode(order: object) -> bytes:
    return json.dumps(order).encode()


def cache_folder(env: Mapping[str, str]) -> Path:
    """Where uv keeps its cache (docs.astral.sh/uv/concepts/cache)."""
    if env.get("UV_CACHE_DIR"):
        return Path(env["UV_CACHE_DIR"]).absolute()
    return Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"


def _hosts(text: str) -> tuple[tuple[str, int], ...]:
    found: dict[tuple[str, int], None] = {}
    for address in _ADDRESS.findall(text):
        with suppress(ValueError):
            parts = urlsplit(address)
            if parts.hostname:
                found[parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)] = None
    return tuple(found)


def _local_links(env: Mapping[str, str], config: str) -> list[str]:
    """Folders of wheels that the server's own settings name."""
    links = env.get("UV_FIND_LINKS", "").replace(",", " ").split()
    with suppress(ValueError, TypeError, AttributeError):
        parsed: dict[str, Any] = tomllib.loads(config)
        links += [*parsed.get("find-links", ()), *parsed.get("pip", {}).get("find-links", ())]
    return [link for link in links if link.startswith("/")]
