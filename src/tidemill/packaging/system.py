"""What a container needs besides a Python: the C library and its loader, names of users, certificates, a
shell. Taken from this host, as little as there can be; nothing of the home is among it."""

from __future__ import annotations

import os
from contextlib import suppress

from tidemill.packaging import files
from tidemill.packaging.files import DIRECTORY, FILE, Entry, Files
from tidemill.packaging.libraries import Finder, Found

USER = 1000
USER_NAME = "tidemill"
HOME = f"home/{USER_NAME}"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
_CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
_SHELL = "/bin/sh"
_C_LIBRARY = "libc.so.6"
_CACHE = "/etc/ld.so.cache"  # ldconfig(8) writes it anew whenever libraries come or are exchanged


def stamp() -> str:
    """Another text once what is taken from this host may be another."""
    found: list[str] = []
    for path in (_CACHE, *_CERTIFICATES, _SHELL):
        with suppress(OSError):
            info = os.stat(path)
            found.append(f"{path} {info.st_size} {info.st_mtime_ns}")
    return "\n".join(found)


def users() -> Files:
    """Names, and the folders that anybody may write to."""
    return {
        "etc/passwd": files.text(
            "root:x:0:0:root:/root:/bin/sh\n"
            f"{USER_NAME}:x:{USER}:{USER}:{USER_NAME}:/{HOME}:/bin/sh\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        ),
        "etc/group": files.text(f"root:x:0:\n{USER_NAME}:x:{USER}:\nnogroup:x:65534:\n"),
        "etc/nsswitch.conf": files.text("passwd: files\ngroup: files\nhosts: files dns\n"),
        HOME: Entry(DIRECTORY, 0o755, owner=USER),
        "root": Entry(DIRECTORY, 0o700),
        "tmp": Entry(DIRECTORY, 0o1777),
        "var/tmp": Entry(DIRECTORY, 0o1777),
        **dict.fromkeys(("dev", "proc", "run", "sys"), files.FOLDER),
    }


def certificates() -> Files:
    """The public authorities that this host trusts; none where it has no list of them."""
    found = next((path for path in _CERTIFICATES if os.path.isfile(path)), "")
    return {CERTIFICATES: Entry(FILE, 0o644, source=found)} if found else {}


def shell() -> str:
    """Of this host, links resolved; "" where there is none."""
    real = os.path.realpath(_SHELL)
    return real if os.path.isfile(real) else ""


def shell_files() -> Files:
    found = shell()
    return {"bin/sh": Entry(FILE, 0o755, source=found)} if found else {}


def library_files(finder: Finder, found: Found) -> Files:
    """Libraries under the names that programs ask for, where the loader looks by itself, and the loader where
    programs say it is."""
    folder = finder.folder_of(_C_LIBRARY) or next(
        (os.path.dirname(loader) for loader in sorted(found.loaders)), "/lib"
    )
    placed = {
        f"{folder.lstrip('/')}/{name}": Entry(FILE, 0o755, source=os.path.realpath(path))
        for name, path in found.files.items()
    }
    for loader in found.loaders:
        if os.path.isfile(loader):
            placed[loader.lstrip("/")] = Entry(FILE, 0o755, source=os.path.realpath(loader))
    return placed
