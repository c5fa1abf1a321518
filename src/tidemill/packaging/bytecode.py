"""Python's bytecode in an image, where every file has the same time: it says that nobody need compare it with
its source (PEP 552, an unchecked hash), or Python would compile everything anew at each start."""

from __future__ import annotations

import struct

_HEADER = 16  # magic, flags, then time and size of the source, or its hash
_HASH_BASED = 1


def detached(raw: bytes) -> bytes:
    """The same code under a header that names neither a time nor a size. What is too short to be bytecode
    stays as it is."""
    if len(raw) < _HEADER:
        return raw
    (flags,) = struct.unpack_from("<I", raw, 4)
    if flags & _HASH_BASED:
        return raw
    return raw[:4] + struct.pack("<I", _HASH_BASED) + bytes(8) + raw[_HEADER:]
