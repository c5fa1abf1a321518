"""Building among an image's files: uv runs in the image, so that what it installs fits the image's Python
and C library, and code that runs while a package is built sees neither the host nor the home."""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tidemill.domain.errors import InvalidRequest
from tidemill.environments.images.reference import TARGET
from tidemill.environments.images.unpacked import UnpackedImage
from tidemill.environments.process import uv_program
from tidemill.environments.python import Interpreter
from tidemill.sandbox import bwrap

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_KEPT = (  # of the server's environment: code of packages runs with it
    *_CERTIFICATES, "NO_COLOR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy",
    "no_proxy",
)  # fmt: skip
_CONFIGS = (Path("~/.config/uv/uv.toml"), Path("/etc/uv/uv.toml"))
_CONTAINED = (
    "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL", "--new-session",
    "--die-with-parent",
)  # fmt: skip


def pythons(image: UnpackedImage) -> tuple[Interpreter, ...]:
    """Those on the image's PATH; their paths are the image's."""
    found = ((version.split("."), path) for version, path in image.pythons)
    return tuple(Interpreter((int(parts[0]), int(parts[1])), Path(path)) for parts, path in found)


def check(image: UnpackedImage, name: str) -> None:
    """Raises InvalidRequest where nothing can be built in it."""
    require_sandbox(name)
    if image.libc != "glibc":
        libc = "musl's" if image.libc == "musl" else "no C library that is known"
        raise InvalidRequest(
            f"Image {name} has {libc}, and a conda file needs an image with glibc (Debian, Ubuntu, Red Hat): "
            "uv itself needs it. Use such an image, or put the packages into the image.",
            "ImageWithoutGlibc",
            TARGET,
        )


def require_sandbox(name: str) -> None:
    """Raises InvalidRequest where nothing can run in an image."""
    if shutil.which("bwrap") is None:
        raise InvalidRequest(
            f"Jobs run in image {name} by bubblewrap, which this server's host does not have: install it "
            "(apt install bubblewrap, dnf install bubblewrap), or let the host stand in for images "
            "(tidemill up --images prefer-host).",
            "BubblewrapMissing",
            TARGET,
        )


def command(
    image: UnpackedImage,
    argv: Sequence[str],
    *,
    work: Path,
    cache: Path,
    managed: Path,
    env: Mapping[str, str],
) -> tuple[list[str], dict[str, str]]:
    """(argv, environment) that run uv with `argv` in the image; it writes to `work` and `cache` only.

    What the image's author says is set inside only: bubblewrap itself runs as the server, and what it is
    given, and which files of the host are shown, come from the server's own settings alone."""
    given = {name: value for name, value in env.items() if name.startswith("UV_") or name in _KEPT}
    given["UV_CACHE_DIR"] = str(cache)
    config = next((path for path in map(Path.expanduser, _CONFIGS) if path.is_file()), None)
    if config is not None:
        given.setdefault("UV_CONFIG_FILE", str(config))
    files = [given[name] for name in (*_CERTIFICATES, "UV_CONFIG_FILE") if name in given]
    reads = [uv_program(), str(managed), *files, *_local_links(given)]
    seen = [path for path in reads if os.path.exists(path)]
    writes = [str(work), str(cache)]
    words = [str(shutil.which("bwrap")), *_CONTAINED]
    words += bwrap.image_root(str(image.root), [*writes, *seen])
    words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for path in sorted(seen):
        words += ["--ro-bind", path, path]
    for path in writes:
        words += ["--bind", path, path]
    words += bwrap.names_of_host(str(image.root), "/etc")
    for name, value in {**dict(image.env), "PATH": image.path, "HOME": "/tmp"}.items():
        words += ["--setenv", name, value] if name not in given else []
    return [*words, "--remount-ro", "/", "--chdir", str(work), "--", uv_program(), *argv], given


def _local_links(env: Mapping[str, str]) -> list[str]:
    """Folders of wheels that the server's own settings of uv name."""
    links = env.get("UV_FIND_LINKS", "").replace(",", " ").split()
    with suppress(OSError, KeyError, ValueError, TypeError):
        settings = tomllib.loads(Path(env["UV_CONFIG_FILE"]).read_text("utf-8"))
        links += [*settings.get("find-links", ()), *settings.get("pip", {}).get("find-links", ())]
    return [link for link in links if link.startswith("/")]
