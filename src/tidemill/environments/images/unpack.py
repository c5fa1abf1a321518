"""`python -m tidemill.environments.images.unpack`: a process of its own, so that neither unpacking nor what a
layer does to its reader is felt by the server.

Standard input: {"root", "layers": [path, …], "most_bytes", "folders": [path, …], "files": {path: text},
"path": PATH, "programs": [name, …]}.
Standard output: JSON lines. {"layer": k, "bytes": n, "entries": n} while it goes on; at last
{"done": {"size", "entries", "skipped", "shell", "libc", "pythons", "programs"}}, or {"refused": sentence}
(the image is bad), or {"full": true}.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from tidemill.environments.images.beneath import Tree
from tidemill.environments.images.layers import Applied, Applier, BadLayer, close_folders

_PYTHON = re.compile(r"python(3\.\d+)")
_SHELLS = ("/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash", "/bin/sh", "/usr/bin/sh")
_LOADERS = (("ld-linux", "glibc"), ("ld64.so", "glibc"), ("ld-musl", "musl"))
MOST_MEMORY = 2 << 30
STEP_BYTES = 64 << 20  # between two words of progress
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def main() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    order = json.load(sys.stdin)
    try:
        done = unpack(order)
        with Tree(order["root"]) as tree:
            facts = facts_of(tree, order["path"].split(":"), order["programs"])
    except BadLayer as error:
        _say(refused=str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _say(full=True)
    else:
        _say(done={"size": done.size, "entries": done.entries, "skipped": done.skipped, **facts})
    return 0


def unpack(order: dict[str, Any]) -> Applied:
    """Raises BadLayer naming the layer. `folders` and `files` are what a sandbox mounts upon: real ones, made
    after the layers."""
    said = 0

    def progress(done: Applied) -> None:
        nonlocal said
        if done.size - said >= STEP_BYTES:
            said = done.size
            _say(layer=number, bytes=done.size, entries=done.entries)

    number, layers = 0, order["layers"]
    done = Applied(int(order["most_bytes"]), on_progress=progress)
    with Tree(order["root"]) as tree:
        applier = Applier(tree, done)
        for number, path in enumerate(layers, 1):
            try:
                with opened(path) as archive:
                    applier.apply(archive)
            except BadLayer as error:
                raise BadLayer(f"layer {number} of {len(layers)}: {error}") from None
            _say(layer=number, bytes=done.size, entries=done.entries)
        for path in order["folders"]:
            tree.make_folder(path)
        for path, text in order["files"].items():
            tree.write(path, text)
    close_folders(order["root"])
    return done


def facts_of(tree: Tree, path: list[str], programs: list[str]) -> dict[str, Any]:
    """What a job needs to know of the files before it runs among them."""
    folders = [folder for folder in path if folder.startswith("/")]
    found: dict[str, str] = {}
    for folder in folders:
        for name in tree.names(folder):
            match = _PYTHON.fullmatch(name)
            if match and match[1] not in found and tree.executable(f"{folder}/{name}"):
                found[match[1]] = f"{folder}/{name}"
    loaders = [*tree.names("/lib64"), *tree.names("/lib")]
    libc = next((libc for start, libc in _LOADERS if any(name.startswith(start) for name in loaders)), "")
    return {
        "shell": next((shell for shell in _SHELLS if tree.executable(shell)), ""),
        "libc": libc,
        "pythons": sorted(found.items()),
        "programs": [p for p in programs if any(tree.executable(f"{folder}/{p}") for folder in folders)],
    }


@contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """A layer as a plain tar. What it is packed with is told by its first bytes, not by what it is called."""
    with open(path, "rb") as file:
        start = file.read(4)
        file.seek(0)
        if start.startswith(GZIP):
            with gzip.GzipFile(fileobj=file) as plain:
                yield plain  # type: ignore[misc]
        elif start == ZSTD:
            os.lseek(file.fileno(), 0, os.SEEK_SET)  # what has been read ahead is not for the program
            with _zstd(file) as plain:
                yield plain
        else:
            yield file


@contextmanager
def _zstd(file: IO[bytes]) -> Iterator[IO[bytes]]:
    try:
        process = subprocess.Popen(
            ["zstd", "-dcq"], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except FileNotFoundError:
        raise BadLayer("it is packed with zstd, and this host has no program zstd (Debian: zstd)") from None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        yield process.stdout
        process.stdout.read()  # what follows the end of the archive
        if process.wait() != 0:
            raise BadLayer(
                f"zstd cannot read it: {process.stderr.read(300).decode('utf-8', 'replace').strip()}"
            )
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def _say(**word: Any) -> None:
    print(json.dumps(word), flush=True)


if __name__ == "__main__":
    sys.exit(main())
