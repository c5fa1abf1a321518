"""Installed packages made wheels again, byte for byte what the environment has, in the same form each time.

https://packaging.python.org/specifications/binary-distribution-format/ and …/recording-installed-packages/
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from itertools import chain

from tidemill.packaging.pythons import TRAMPOLINE, Unsuitable

_CHUNK = 1 << 20
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # that a zip archive can say
# Written by whoever installed it.
_INSTALLERS = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json")
_SMALL = 1 << 20


@dataclass(frozen=True, slots=True)
class Wheel:
    """`digest`: SHA-256 of the file, hexadecimal."""

    name: str
    version: str
    file: str
    digest: str

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.digest}"


def repack(environment: str, minor: str, folder: str) -> list[Wheel]:
    """Every package of a virtual environment as a wheel in `folder`, by name. `minor`: of its Python. Raises
    Unsuitable for what was not installed from a wheel, OSError."""
    packages = os.path.join(environment, "lib", f"python{minor}", "site-packages")
    names = sorted(
        name for name in os.listdir(packages) if name.endswith((".dist-info", ".egg-info", ".egg-link"))
    )
    for name in names:
        if not name.endswith(".dist-info"):
            raise Unsuitable(
                f"{name} in the environment was not installed from a wheel, and cannot become one."
            )
    return [_Package(packages, name).write(folder) for name in names]


class _Package:
    def __init__(self, packages: str, info: str) -> None:
        self._packages = packages
        self._info = info
        self._stem = info.removesuffix(".dist-info")
        metadata = HeaderParser().parsestr(self._text("METADATA"))
        self._name, self._version = str(metadata["Name"]), str(metadata["Version"])

    def write(self, folder: str) -> Wheel:
        file = f"{self._stem}-{_tag(self._text('WHEEL'))}.whl"
        path = os.path.join(folder, file)
        record: list[tuple[str, str, str]] = []
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as archive:
            last = f"{self._info}/"  # a wheel's own data comes last
            for name, source in sorted(self._files(), key=lambda one: (one[0].startswith(last), one[0])):
                record.append((name, *_add(archive, name, source)))
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([*record, (f"{last}RECORD", "", "")])
            archive.writestr(_entry(f"{last}RECORD", 0o644), text.getvalue())
        return Wheel(self._name, self._version, file, _digest(path))

    def _files(self) -> Iterator[tuple[str, str]]:
        """(path in the wheel, path here)."""
        made = self._console_scripts()
        root = os.path.realpath(os.path.join(self._packages, "..", "..", ".."))
        for row in csv.reader(self._text("RECORD").splitlines()):
            if (
                not row
                or row[0].endswith(".pyc")
                or row[0] in {f"{self._info}/{name}" for name in _INSTALLERS}
            ):
                continue
            path = os.path.normpath(os.path.join(self._packages, row[0]))
            inside = os.path.relpath(path, self._packages)
            if not inside.startswith(".."):
                yield inside, path
                continue
            below = os.path.relpath(path, root)
            if below.startswith(".."):
                raise Unsuitable(f"{self._name} has a file outside of its environment: {row[0]}.")
            if below.startswith("bin/"):
                if below.removeprefix("bin/") not in made:
                    yield f"{self._stem}.data/scripts/{below.removeprefix('bin/')}", path
            else:
                yield f"{self._stem}.data/data/{below}", path

    def _console_scripts(self) -> set[str]:
        """Those that an installer makes anew."""
        parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        try:
            parser.read_string(self._text("entry_points.txt"))
        except (Unsuitable, configparser.Error):
            return set()
        return {
            name for group in ("console_scripts", "gui_scripts") if group in parser for name in parser[group]
        }

    def _text(self, name: str) -> str:
        try:
            with open(os.path.join(self._packages, self._info, name), encoding="utf-8") as file:
                return file.read()
        except OSError:
            raise Unsuitable(
                f"{self._stem} in the environment has no {name}: it was not installed from a wheel, and "
                "cannot become one."
            ) from None


def _tag(text: str) -> str:
    """Of a wheel's file name, with its build number, from its `WHEEL`."""
    told = HeaderParser().parsestr(text)
    tags = [str(tag).split("-") for tag in told.get_all("Tag") or ["py3-none-any"]]
    parts = [".".join(dict.fromkeys(tag[place] for tag in tags)) for place in range(3)]
    build = [str(told["Build"])] if told["Build"] else []
    return "-".join([*build, *parts])


def _add(archive: zipfile.ZipFile, name: str, source: str) -> tuple[str, str]:
    """-> (hash, size) as a wheel's RECORD has them."""
    digest, size = hashlib.sha256(), 0
    executable = os.stat(source).st_mode & 0o111
    script = ".data/scripts/" in name
    with (
        open(source, "rb") as file,
        archive.open(_entry(name, 0o755 if executable else 0o644), "w") as target,
    ):
        first = _plain_script(file.read(_SMALL)) if script else b""
        for piece in chain([first], iter(lambda: file.read(_CHUNK), b"")):
            digest.update(piece)
            size += len(piece)
            target.write(piece)
    encoded = base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")
    return f"sha256={encoded}", str(size)


def _plain_script(raw: bytes) -> bytes:
    """As a wheel has it: an installer writes the path of its Python."""
    if raw.startswith(TRAMPOLINE):
        return b"#!python\n" + raw.split(b"\n", 3)[3]
    line, _, rest = raw.partition(b"\n")
    return b"#!python\n" + rest if line.startswith(b"#!") and b"python" in line else raw


def _entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EARLIEST)
    info.external_attr = (0o100000 | mode) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def requirements(wheels: Sequence[Wheel]) -> str:
    return "".join(f"{wheel.requirement}\n" for wheel in wheels)
