"""A Python of this host and the packages of an environment, as they lie in an image.

opt/python   the interpreter and its standard library     opt/env    the environment's packages, with a
opt/side     what the scoring server adds to them         bin that runs that interpreter
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from tidemill.packaging import elf, files
from tidemill.packaging.bytecode import detached
from tidemill.packaging.files import Entry, Files, Rewrite

PYTHON, ENVIRONMENT, SIDE = "opt/python", "opt/env", "opt/side"
OWN = ".tidemill"  # what the environment's builder keeps there
_ASK_S = 60.0
_COMPILE_S = 600.0
_FACTS = (
    "import json, sys, sysconfig; print(json.dumps({'version': '%d.%d.%d' % sys.version_info[:3],"
    " 'prefix': sys.base_prefix, 'library': sysconfig.get_path('stdlib'),"
    " 'platform_library': sysconfig.get_path('platstdlib'),"
    " 'dynamic': sysconfig.get_config_var('DESTSHARED') or ''}))"
)
# Reads {source: [target, name]} and writes bytecode that is never compared with its source.
_COMPILE = (
    "import json, py_compile, sys\n"
    "mode = py_compile.PycInvalidationMode.UNCHECKED_HASH\n"
    "for source, (target, name) in json.load(sys.stdin).items():\n"
    "    try:\n"
    "        py_compile.compile(source, target, dfile=name, doraise=True, invalidation_mode=mode)\n"
    "    except (py_compile.PyCompileError, OSError):\n"
    "        pass\n"
)
# Of the standard library: what serves nobody, and packages of the host's own.
_LEFT_OUT = {"test", "idlelib", "turtledemo", "tkinter", "site-packages", "dist-packages", "sitecustomize.py"}
_TESTS = ("_test", "_tkinter", "xxlimited", "_xxtest")
_SCRIPT_LIMIT = 1 << 20
_OWN_FILES = {".lock", ".gitignore", "CACHEDIR.TAG", "pyvenv.cfg", OWN, "lib64"}


class Unsuitable(ValueError):
    """Something that no image can be made of. `str()` is a sentence for the user."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """`program` is the interpreter itself, links resolved; `library` its standard library, below `prefix`."""

    program: str
    version: str
    prefix: str
    library: tuple[str, ...]

    @property
    def minor(self) -> str:
        return ".".join(self.version.split(".")[:2])

    @property
    def name(self) -> str:
        return f"python{self.minor}"


def ask(program: str) -> Interpreter:
    """What an interpreter of this host says of itself: it runs, with nothing of any environment. Raises
    Unsuitable."""
    real = os.path.realpath(program)
    try:
        done = subprocess.run(
            [real, "-I", "-S", "-c", _FACTS], capture_output=True, text=True, timeout=_ASK_S, check=True
        )
        told = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise Unsuitable(f"The Python at {real} does not say what it is: {error}.") from None
    prefix = os.path.realpath(told["prefix"])
    given = [told["library"], told["platform_library"], told["dynamic"]]
    folders = dict.fromkeys(os.path.realpath(folder) for folder in given if folder and os.path.isdir(folder))
    library = tuple(
        folder for folder in folders if not any(folder.startswith(f"{other}/") for other in folders)
    )
    for folder in library:
        if not folder.startswith(f"{prefix}/"):
            raise Unsuitable(
                f"The Python at {real} has its standard library at {folder}, outside of its own folder "
                f"{prefix}, and cannot be moved. Use an environment with another version of Python, which uv "
                "downloads."
            )
    return Interpreter(real, told["version"], prefix, library)


def interpreter_files(python: Interpreter, work: str) -> Files:
    """`work`: a folder for bytecode that the host's library lacks. Raises OSError."""
    name = python.name
    found: Files = {
        f"{PYTHON}/bin/{name}": Entry(files.FILE, 0o755, source=python.program),
        f"{PYTHON}/bin/python3": files.link(name),
        f"{PYTHON}/bin/python": files.link(name),
    }
    for folder in python.library:
        place = f"{PYTHON}/{os.path.relpath(folder, python.prefix)}"
        found[place] = files.FOLDER
        for below, path in files.walk(folder, _left_out):
            entry = files.entry_of(folder, path, _bytecode(below), follow=True)
            if entry is not None:
                found[f"{place}/{below}"] = entry
    return found | compiled(python, found, work)


def _left_out(below: str) -> bool:
    parts = below.split("/")
    name = parts[-1]
    optimised = name.endswith((".opt-1.pyc", ".opt-2.pyc"))
    unused = len(parts) == 1 and (parts[0] in _LEFT_OUT or parts[0].startswith("config-"))
    return unused or optimised or (name.endswith(".so") and name.startswith(_TESTS)) or name == "tests"


def _bytecode(path: str) -> Rewrite | None:
    return detached if path.endswith(".pyc") else None


def compiled(python: Interpreter, found: Files, work: str) -> Files:
    """Bytecode of the modules among some files that have none; in `work`, which is new."""
    os.makedirs(work)
    tag = f"cpython-{python.minor.replace('.', '')}"
    order: dict[str, tuple[str, str]] = {}
    made: dict[str, str] = {}
    for path, entry in found.items():
        folder, _, name = path.rpartition("/")
        target = f"{folder}/__pycache__/{name[:-3]}.{tag}.pyc"
        if name.endswith(".py") and entry.source and target not in found:
            made[target] = os.path.join(work, f"{len(made)}.pyc")
            order[entry.source] = (made[target], f"/{path}")
    if order:
        argv = [python.program, "-I", "-S", "-c", _COMPILE]
        subprocess.run(
            argv, input=json.dumps(order), text=True, capture_output=True, timeout=_COMPILE_S, check=False
        )
    return {
        target: Entry(files.FILE, 0o644, source=path) for target, path in made.items() if os.path.exists(path)
    }


def environment_files(root: str, place: str, python: str, version: str) -> Files:
    """A virtual environment of the environments' builder, moved to `place`: its `bin` runs `python` (a path
    in the image). Raises OSError."""
    name = f"python{'.'.join(version.split('.')[:2])}"
    found: Files = {
        f"{place}/pyvenv.cfg": files.text(
            f"home = {os.path.dirname(python)}\ninclude-system-site-packages = false\n"
            f"version_info = {version}\n"
        ),
        f"{place}/bin/python": files.link(python),
        f"{place}/bin/python3": files.link("python"),
        f"{place}/bin/{name}": files.link("python"),
        f"{place}/lib64": files.link("lib"),
    }
    for below, path in files.walk(root, _not_packages):
        script = below.startswith("bin/") and below.count("/") == 1
        entry = files.entry_of(root, path, partial(moved_script, place) if script else _bytecode(below))
        if entry is not None:
            found.setdefault(f"{place}/{below}", entry)
    return found


def _not_packages(below: str) -> bool:
    folder, _, name = below.rpartition("/")
    if not folder:
        return name in _OWN_FILES
    return folder == "bin" and (name.startswith(("python", "activate")) or name == "pydoc.bat")


# As uv writes it into the scripts of a relocatable environment, and as the builder then points it at the
# Python of whoever uses the environment: both begin so.
TRAMPOLINE = b"#!/bin/sh\n'''exec' "


def moved_script(place: str, raw: bytes) -> bytes:
    """A console script that finds its Python by its own place: it runs the image's by its path, without a
    shell."""
    if len(raw) > _SCRIPT_LIMIT or not raw.startswith(TRAMPOLINE):
        return raw
    _, _, rest = raw[len(TRAMPOLINE) :].partition(b"\n")
    ending, _, body = rest.partition(b"\n")
    if ending.strip() != b"' '''":
        return raw
    return f"#!/{place}/bin/python\n".encode() + body


def side_files(folder: str) -> Files:
    """Packages that stand behind the environment's own."""
    found: Files = {SIDE: files.FOLDER}
    for below, path in files.walk(folder, lambda below: below.startswith(("pip/", "pip-", "_virtualenv"))):
        entry = files.entry_of(folder, path, _bytecode(below))
        if entry is not None:
            found[f"{SIDE}/{below}"] = entry
    return found


def loaded(found: Files) -> list[str]:
    """Paths here of the programs and libraries among some files. Raises OSError."""
    paths = {entry.source for entry in found.values() if entry.kind == files.FILE and entry.source}
    return sorted(path for path in paths if _may_be_elf(path) and elf.is_elf(path))


def _may_be_elf(path: str) -> bool:
    name = os.path.basename(path)
    return ".so" in name or "." not in name or os.access(path, os.X_OK)


def inside(roots: Iterable[str]) -> partial[bool]:
    """Whether a path lies below one of some folders, links resolved."""
    return partial(_is_inside, tuple(f"{os.path.realpath(root)}/" for root in roots))


def _is_inside(roots: tuple[str, ...], path: str) -> bool:
    return os.path.realpath(path).startswith(roots)
