"""What a package takes from its host: libraries as the loader finds them, a Python that can be moved."""

from __future__ import annotations

import contextlib
import importlib.util
import marshal
import os
import py_compile
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tidemill.controllers.packaging import _keys
from tidemill.packaging import elf, pythons, system
from tidemill.packaging.bytecode import detached
from tidemill.packaging.elf import NotElf
from tidemill.packaging.libraries import Finder, host_folders

PROGRAM = os.path.realpath(sys.executable)


def test_a_program_needs_what_ldd_says() -> None:
    if shutil.which("ldd") is None:
        pytest.skip("no ldd to compare with")
    said = subprocess.run(["ldd", PROGRAM], capture_output=True, text=True, check=True).stdout
    theirs = {line.split()[0]: line.split()[2] for line in said.splitlines() if " => /" in line}
    found = Finder(lambda _: False, program=elf.read(PROGRAM)).closure([PROGRAM])
    assert theirs.keys() <= found.files.keys()
    for name, path in theirs.items():
        assert os.path.samefile(found.files[name], path)
    assert found.missing == {}
    (loader,) = found.loaders
    assert loader in said


@pytest.mark.parametrize(
    "raw",
    [b"", b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF\x02\x01" + bytes(10), b"\x7fELF\x02\x01" + b"\xff" * 200],
)
def test_what_is_no_program_is_told_so(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x").write_bytes(raw)
    with pytest.raises(NotElf):
        elf.read(str(tmp_path / "x"))


def test_a_damaged_program_never_raises_anything_else(tmp_path: Path) -> None:
    """Packages' files are anybody's."""
    library = next(path for path in Finder(lambda _: False).closure([PROGRAM]).files.values())
    raw = Path(library).read_bytes()[:200_000]
    seen = random.Random(7)
    target = tmp_path / "x"
    for _ in range(300):
        broken = bytearray(raw[: seen.choice((64, 200, 4096, len(raw)))])
        for _ in range(seen.randint(1, 40)):
            broken[seen.randrange(len(broken))] = seen.randrange(256)
        broken[:4] = elf.MAGIC
        target.write_bytes(broken)
        with contextlib.suppress(NotElf):
            elf.read(str(target))


def test_a_library_beside_its_user_is_found_by_origin(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg.libs").mkdir()
    (tmp_path / "a.c").write_text("int a(void) { return 1; }\n")
    (tmp_path / "b.c").write_text("int a(void); int b(void) { return a(); }\n")
    lib, user = tmp_path / "pkg.libs" / "liba.so", tmp_path / "pkg" / "b.so"
    base = [compiler, "-shared", "-fPIC"]
    subprocess.run([*base, "-Wl,-soname,liba.so", "-o", lib, tmp_path / "a.c"], check=True)
    paths = ["-Wl,-rpath,$ORIGIN/../pkg.libs", f"-L{lib.parent}", "-la"]
    subprocess.run([*base, "-o", user, tmp_path / "b.c", *paths], check=True)
    outside = Finder(lambda _: False).closure([str(user)])
    assert os.path.samefile(outside.files["liba.so"], lib)
    inside = Finder(lambda path: path.startswith(str(tmp_path))).closure([str(user)])
    assert "liba.so" not in inside.files
    lib.unlink()
    assert Finder(lambda _: False).closure([str(user)]).missing == {"liba.so": str(user)}


def test_the_loaders_configuration_is_followed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b.conf").write_text("/opt/b # why\n")
    (tmp_path / "d" / "a.conf").write_text("/opt/a\nrelative\n")
    (tmp_path / "ld.so.conf").write_text(f"include d/*.conf\ninclude {tmp_path}/ld.so.conf\n/opt/c\n")
    assert host_folders(str(tmp_path / "ld.so.conf"))[:3] == ("/opt/a", "/opt/b", "/opt/c")


def test_bytecode_is_the_same_code_and_is_not_compared(tmp_path: Path) -> None:
    source = tmp_path / "m.py"
    source.write_text("X = 41 + 1\n")
    made = Path(str(py_compile.compile(str(source))))
    raw = detached(made.read_bytes())
    assert struct.unpack_from("<I", raw, 4) == (1,)
    assert marshal.loads(raw[16:]) == marshal.loads(made.read_bytes()[16:])
    made.write_bytes(raw)
    source.write_text("X = 'not compiled again'\n")
    spec = importlib.util.spec_from_file_location("m", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.X == 42
    assert detached(raw) == raw
    assert detached(b"short") == b"short"


def test_console_scripts_run_the_images_python() -> None:
    body = b"# -*- coding: utf-8 -*-\nimport sys\n"
    by_uv = (
        b"#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python' \"$0\" \"$@\"\n' '''\n"
        + body
    )
    by_us = b"#!/bin/sh\n'''exec' \"${TIDEMILL_PYTHON:-$(dirname x)/python}\" \"$0\" \"$@\"\n' '''\n" + body
    for script in (by_uv, by_us):
        assert pythons.moved_script("opt/env", script) == b"#!/opt/env/bin/python\n" + body
    for other in (b"#!/bin/sh\necho hi\n", b"\x7fELF...", b"#!/bin/sh\n'''exec' x\nno end\n"):
        assert pythons.moved_script("opt/env", other) == other


def test_this_python_says_where_its_library_is() -> None:
    found = pythons.ask(sys.executable)
    assert found.program == PROGRAM
    assert found.minor == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert any(os.path.exists(f"{folder}/os.py") for folder in found.library)


def test_what_is_no_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "python3").chmod(0o755)
    with pytest.raises(pythons.Unsuitable, match="does not say what it is"):
        pythons.ask(str(tmp_path / "python3"))


def test_a_host_with_other_libraries_shares_no_layer_with_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "ld.so.cache"
    monkeypatch.setattr(system, "_CACHE", str(cache))

    def keys(image: str) -> dict[str, str]:
        planned, built = SimpleNamespace(image_digest=image), SimpleNamespace(digest="d" * 32)
        return _keys(sys.executable, cast(Any, planned), cast(Any, built), None, None)

    found: list[dict[str, str]] = []
    images: list[dict[str, str]] = []
    for at in (1, 1, 2):
        cache.write_text("libc.so.6")
        os.utime(cache, (at, at))
        found.append(keys(""))
        images.append(keys("sha256:1"))
    assert found[0] == found[1]
    assert not set(found[1].values()) & set(found[2].values())
    assert images[0] == images[2]
    assert not set(images[0].values()) & set(found[0].values())
