"""A node's own /etc: the few files that programs look for, none that tells of the host or its users.

Made once per node. Short files are copied; folders are empty places on which the host's own are bound
read-only. The job's uid has a name here, and the node's name an address.
"""

from __future__ import annotations

import os

# Public by nature: certificates, which program or library an alternative is, fonts, MPI and OpenCL settings.
FOLDERS = (
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "fonts",
    "mpich",
    "OpenCL",
    "openmpi",
    "pki",
    "ssl",
)
_COPIED = ("ld.so.cache", "localtime", "mime.types", "protocols", "resolv.conf", "services", "timezone")
NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"
USER = "job"


def make(directory: str, hostname: str, uid: int, gid: int) -> None:
    """Fills `directory` (made if absent), readable by everyone."""
    os.makedirs(directory, 0o755, exist_ok=True)
    os.chmod(directory, 0o755)
    for name in _COPIED:
        data = _read(f"/etc/{name}")
        if data is not None:
            _write(f"{directory}/{name}", data)
    _write(f"{directory}/passwd", passwd(uid, gid).encode())
    _write(f"{directory}/group", group(gid).encode())
    _write(f"{directory}/hosts", hosts(hostname).encode())
    _write(f"{directory}/hostname", f"{hostname}\n".encode())
    _write(f"{directory}/nsswitch.conf", NSSWITCH.encode())
    for name in folders():
        os.makedirs(f"{directory}/{name}", 0o755, exist_ok=True)


def folders() -> list[str]:
    """Those of FOLDERS that this host has."""
    return [name for name in FOLDERS if os.path.isdir(f"/etc/{name}")]


def passwd(uid: int, gid: int) -> str:
    own = "" if uid in (0, 65534) else f"{USER}:x:{uid}:{gid}:Tidemill job:/tmp:/bin/bash\n"
    return f"root:x:0:0:root:/root:/bin/bash\n{own}nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"


def group(gid: int) -> str:
    own = "" if gid in (0, 65534) else f"{USER}:x:{gid}:\n"
    return f"root:x:0:\n{own}nogroup:x:65534:\n"


def hosts(hostname: str) -> str:
    return f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _write(path: str, data: bytes) -> None:
    """Anew, never through a link that is there."""
    new = f"{path}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    try:
        os.fchmod(fd, 0o644)
        os.write(fd, data)
    finally:
        os.close(fd)
    os.rename(new, path)
