"""What an ELF file says of the libraries that it needs. Read from its headers, nothing is run (ldd would be).

The files may be anybody's: whatever is wrong with one makes it no ELF file, never an error of another kind.
Layout: System V gABI, chapters 4 and 5.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

MAGIC = b"\x7fELF"
_LOAD, _DYNAMIC, _INTERP = 1, 2, 3
_NEEDED, _STRTAB, _STRSZ, _RPATH, _RUNPATH = 1, 5, 10, 15, 29
_MOST_HEADERS = 512
_MOST_DYNAMIC = 1 << 20  # bytes
_MOST_STRINGS = 64 << 20
_LONGEST = 4096
_LARGEST = 1 << 40  # bytes of a file


class NotElf(ValueError):
    """It is none, or one that cannot be read."""


@dataclass(frozen=True, slots=True)
class Elf:
    """`kind` tells apart what cannot be loaded together: (bits, byte order, machine). `interpreter`: the
    loader's path, "" of a library. `rpath` counts for everything that it loads in turn, `runpath` for itself
    alone; both as written, with `$ORIGIN`."""

    kind: tuple[int, str, int]
    interpreter: str
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]


def read(path: str) -> Elf:
    """Raises NotElf, OSError."""
    with open(path, "rb") as file:
        try:
            return _read(file)
        except (struct.error, UnicodeDecodeError) as error:
            raise NotElf(str(error)) from None


def is_elf(path: str) -> bool:
    """By its first bytes. Raises OSError."""
    with open(path, "rb") as file:
        return file.read(4) == MAGIC


def _read(file: BinaryIO) -> Elf:
    ident = file.read(16)
    if ident[:4] != MAGIC or len(ident) < 16 or ident[4] not in (1, 2) or ident[5] not in (1, 2):
        raise NotElf("no ELF header")
    bits, order = ident[4] * 32, "<" if ident[5] == 1 else ">"
    word = "I" if bits == 32 else "Q"
    fields = struct.unpack(f"{order}HHI{word}{word}{word}IHHHHHH", _exactly(file, 36 if bits == 32 else 48))
    machine, headers_at, size, count = fields[1], fields[4], fields[8], fields[9]
    if count > _MOST_HEADERS or size < (32 if bits == 32 else 56):
        raise NotElf("its program headers make no sense")
    headers = [_header(file, headers_at + number * size, bits, order) for number in range(count)]
    loads = [header for header in headers if header[0] == _LOAD]
    interpreter = next((_text_at(file, h[1], h[3]) for h in headers if h[0] == _INTERP), "")
    dynamic = next((header for header in headers if header[0] == _DYNAMIC), None)
    kind = (bits, order, machine)
    if dynamic is None:
        return Elf(kind, interpreter, (), (), ())
    tags = _tags(file, dynamic, f"{order}{word}{word}")
    strings = _strings(file, tags, loads)

    def texts(tag: int) -> list[str]:
        return [_string(strings, value) for found, value in tags if found == tag]

    def folders(tag: int) -> tuple[str, ...]:
        return tuple(part for text in texts(tag) for part in text.split(":") if part)

    return Elf(kind, interpreter, tuple(texts(_NEEDED)), folders(_RPATH), folders(_RUNPATH))


def _header(file: BinaryIO, at: int, bits: int, order: str) -> tuple[int, int, int, int]:
    """-> (type, offset, address, size in the file)."""
    file.seek(_place(at))
    if bits == 32:
        kind, offset, address, _, size = struct.unpack(f"{order}IIIII", _exactly(file, 20))
    else:
        kind, _, offset, address, _, size = struct.unpack(f"{order}IIQQQQ", _exactly(file, 40))
    return kind, offset, address, size


def _tags(file: BinaryIO, header: tuple[int, int, int, int], form: str) -> list[tuple[int, int]]:
    _, offset, _, size = header
    if size > _MOST_DYNAMIC:
        raise NotElf("its dynamic section is too large")
    file.seek(_place(offset))
    raw = _exactly(file, size - size % struct.calcsize(form))
    found: list[tuple[int, int]] = []
    for tag, value in struct.iter_unpack(form, raw):
        if tag == 0:
            break
        found.append((tag, value))
    return found


def _strings(file: BinaryIO, tags: list[tuple[int, int]], loads: list[tuple[int, int, int, int]]) -> bytes:
    """The string table, which is named by its address in memory."""
    known = dict(tags)
    address, size = known.get(_STRTAB), known.get(_STRSZ)
    if address is None or size is None or size > _MOST_STRINGS:
        raise NotElf("its string table makes no sense")
    for _, offset, start, length in loads:
        if start <= address < start + length:
            file.seek(_place(offset + address - start))
            return _exactly(file, size)
    raise NotElf("its string table is nowhere in it")


def _string(strings: bytes, at: int) -> str:
    end = strings.find(b"\0", at)
    if end < 0 or end - at > _LONGEST:
        raise NotElf("a name in it has no end")
    return os.fsdecode(strings[at:end])


def _text_at(file: BinaryIO, offset: int, size: int) -> str:
    if size > _LONGEST:
        raise NotElf("the path of its loader is too long")
    file.seek(_place(offset))
    return os.fsdecode(_exactly(file, size).split(b"\0")[0])


def _place(offset: int) -> int:
    if offset > _LARGEST:
        raise NotElf("an offset in it leads nowhere")
    return offset


def _exactly(file: BinaryIO, size: int) -> bytes:
    raw = file.read(size)
    if len(raw) != size:
        raise NotElf("it ends too early")
    return raw
