"""A package put together: the layers of an order, and the image that they make.

Layers, lowest first, each of which others may share: an image's own (or `image`, all its files in one) where
the environment was built in one; `python`; `environment`; `application` (the scoring server, the code, the
model).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tidemill.packaging import elf, files, layers, oci, pythons, system
from tidemill.packaging.files import Files
from tidemill.packaging.layers import Layer
from tidemill.packaging.libraries import OPENED_LATE, Finder, Found
from tidemill.packaging.pythons import ENVIRONMENT, PYTHON, SIDE, Interpreter

FORMAT = 1  # of what layers hold: raise it and they are made anew
SERVER = "opt/tidemill/scoring"
APPLICATION = "var/azureml-app"  # as in Azure's containers
PORT = 5001
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Base:
    """An image that the environment was built in. `layers` are in place, or are made of `root`, its files
    unpacked; `config` and `history` are its own; `python`: the path of its interpreter, "" where one is
    brought along."""

    config: Mapping[str, Any]
    python: str
    layers: tuple[Layer, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    root: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """Paths are of this host. `python`: an interpreter to bring along, "" where `base` has it.
    `environment`: a virtual environment of the builder's, of the Python `version`, which goes to `place`;
    `side`: more packages; "" for none. `model`: a file or folder, which is called `model_name` below
    `model_folder`. `known`: layers that were made before, by name."""

    architecture: str
    reference: str
    server: str
    python: str = ""
    environment: str = ""
    version: str = ""
    place: str = ENVIRONMENT
    side: str = ""
    code: str = ""
    script: str = ""
    model: str = ""
    model_folder: str = ""
    model_name: str = ""
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    known: Mapping[str, Layer] = field(default_factory=dict[str, Layer])
    base: Base | None = None


@dataclass(frozen=True, slots=True)
class Assembled:
    """`layers`: those that were made or known here, by name. `size`: of all layers, compressed."""

    digest: str
    size: int
    layers: Mapping[str, Layer]
    notes: tuple[str, ...]


def assemble(order: Order, layout: str, work: str, say: Say) -> Assembled:
    """Makes the folder `layout` an image layout; `work` is a folder for what is needed meanwhile. Raises
    Unsuitable, OSError."""
    os.makedirs(os.path.join(layout, oci.BLOBS), exist_ok=True)
    made = _Assembly(order, layout, work, say)
    return made.run()


class _Assembly:
    def __init__(self, order: Order, layout: str, work: str, say: Say) -> None:
        self._order = order
        self._layout = layout
        self._work = work
        self._say = say
        self._made: dict[str, Layer] = {}
        self._notes: list[str] = []
        self._libraries: set[str] = set()  # in layers below

    def run(self) -> Assembled:
        order = self._order
        base = order.base.layers if order.base is not None else ()
        if order.base is not None and order.base.root:
            self._image(order.base.root)
        interpreter = pythons.ask(order.python) if order.python else None
        if interpreter is not None:
            self._python(interpreter)
        if order.environment or order.side:
            self._environment(interpreter)
        self._application(interpreter)
        whole = (*base, *self._made.values())
        image = oci.Image(
            order.architecture,
            whole,
            self._config(),
            order.annotations,
            order.base.history if order.base is not None else (),
        )
        digest = oci.write(image, self._layout, order.reference)
        return Assembled(digest, sum(layer.size for layer in whole), self._made, tuple(self._notes))

    def _image(self, root: str) -> None:
        about = "the image's files, in one layer"
        if "image" in self._order.known:
            self._take("image", about)
        else:
            self._write("image", files.whole(root), about)

    def _python(self, python: Interpreter) -> None:
        """With what programs of this host need, where there is no image to have it."""
        found: Files = {}
        if self._order.base is None:
            found |= {**system.users(), **system.certificates(), **system.shell_files()}
        programs = [python.program, *pythons.loaded(_only_libraries(python))]
        if self._order.base is None:
            shell = system.shell()
            needed = self._needed(python, [*programs, *([shell] if shell else [])], OPENED_LATE)
            found |= needed
        if "python" in self._order.known:
            self._take("python", f"Python {python.version}")
            return
        found |= pythons.interpreter_files(python, os.path.join(self._work, "python"))
        self._write("python", found, f"Python {python.version}")

    def _environment(self, python: Interpreter | None) -> None:
        order = self._order
        about = "the environment's packages"
        if "environment" in order.known:
            self._take("environment", about)
            return
        found: Files = {}
        if order.environment:
            found |= pythons.environment_files(
                order.environment, order.place, f"/{self._program()}", order.version
            )
        if order.side:
            found |= pythons.side_files(order.side)
        if order.base is None and python is not None:
            found |= self._needed(python, pythons.loaded(found), ())
        self._write("environment", found, about)

    def _needed(self, python: Interpreter, programs: list[str], late: tuple[str, ...]) -> Files:
        """Libraries that lower layers do not have."""
        roots = [root for root in (self._order.environment, self._order.side) if root]
        inside = pythons.inside([*roots, *python.library])
        finder = Finder(inside, program=elf.read(python.program))
        found = finder.closure(programs, late)
        self._tell_missing(found, roots)
        placed = system.library_files(finder, found)
        new = {path: entry for path, entry in placed.items() if path not in self._libraries}
        self._libraries |= placed.keys()
        return new

    def _tell_missing(self, found: Found, roots: list[str]) -> None:
        there = {os.path.basename(path) for root in roots for _, path in files.walk(root)}
        for name, needed_by in sorted(found.missing.items()):
            if name not in there:  # else loaded by the package itself, before
                place = os.path.basename(needed_by)
                self._notes.append(f"{place} needs {name}, which this host does not have: it is not in it.")

    def _application(self, python: Interpreter | None) -> None:
        order = self._order
        found = files.tree(order.server, SERVER, files.is_bytecode)
        if python is not None:
            found |= pythons.compiled(python, found, os.path.join(self._work, "server"))
        found[APPLICATION] = files.FOLDER
        if order.code:
            # Bytecode in it is of whoever ran it last, and out of date where all files have the same time.
            found |= files.tree(order.code, APPLICATION, files.is_bytecode)
        if order.model:
            place = f"{order.model_folder}/{order.model_name}".rstrip("/")
            whole = os.path.isdir(order.model)
            found |= files.tree(order.model, place) if whole else {place: files.copied(order.model)}
        self._write("application", found, "the scoring server, the code and the model")

    def _take(self, name: str, about: str) -> None:
        self._made[name] = self._order.known[name]
        self._say(f"Layer {name}: {about}, made before.")

    def _write(self, name: str, found: Files, about: str) -> None:
        layer = layers.write(found, os.path.join(self._layout, oci.BLOBS), f"tidemill: {about}")
        self._made[name] = layer
        self._say(f"Layer {name}: {about}, {layer.size / 1e6:.1f} MB compressed.")

    def _program(self) -> str:
        """The interpreter, in the image."""
        base = self._order.base
        if self._order.python or base is None:
            return f"{PYTHON}/bin/python"
        return base.python.lstrip("/")

    def _config(self) -> dict[str, Any]:
        order = self._order
        base = dict(order.base.config) if order.base is not None else {}
        inherited = dict(pair.split("=", 1) for pair in base.get("Env") or () if "=" in pair)
        program = f"/{order.place}/bin/python" if order.environment else f"/{self._program()}"
        told = {
            "LANG": "C.UTF-8",
            **inherited,
            "PATH": ":".join(
                [os.path.dirname(program), inherited.get("PATH") or _PATH],
            ),
            "AML_APP_ROOT": f"/{APPLICATION}",
            "AZUREML_SERVER_PORT": str(PORT),
            "TIDEMILL_SERVING_HOST": "0.0.0.0",  # of its own network
            **self._about_model(),
        }
        if order.base is not None:
            told["HOME"] = "/tmp"  # its list of users has ours not
        if order.environment:
            told["VIRTUAL_ENV"] = f"/{order.place}"
        if order.base is None:
            told["SSL_CERT_FILE"] = f"/{system.CERTIFICATES}"
        if order.side:
            told["TIDEMILL_SERVING_SIDE"] = f"/{SIDE}"
        told |= order.variables
        labels = {**(base.get("Labels") or {}), **order.annotations}
        return {
            **{key: value for key, value in base.items() if key not in ("Cmd", "Volumes", "OnBuild")},
            "User": f"{system.USER}:{system.USER}",
            "Env": [f"{name}={value}" for name, value in sorted(told.items())],
            "Entrypoint": [program, f"/{SERVER}/main.py"],
            "WorkingDir": f"/{APPLICATION}",
            "ExposedPorts": {f"{PORT}/tcp": {}},
            "StopSignal": "SIGTERM",
            "Labels": labels,
            "Healthcheck": {
                "Test": ["CMD", program, "-c", _HEALTHY],
                "Interval": 10_000_000_000,
                "Timeout": 5_000_000_000,
                "StartPeriod": 60_000_000_000,
                "Retries": 3,
            },
        }

    def _about_model(self) -> dict[str, str]:
        order = self._order
        told: dict[str, str] = {}
        if order.script:
            told["AZUREML_ENTRY_SCRIPT"] = order.script
        if order.model:
            folder = f"/{order.model_folder}"
            told["AZUREML_MODEL_DIR"] = folder
            if not order.script:
                told["TIDEMILL_SERVING_MODEL"] = f"{folder}/{order.model_name}".rstrip("/")
        return told


# Docker's and podman's own field of a configuration; OCI has none for it, and lets it be there.
_HEALTHY = (
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/' % "
    f"os.environ.get('AZUREML_SERVER_PORT', '{PORT}'), timeout=4)"
)


def _only_libraries(python: Interpreter) -> Files:
    """The compiled modules of a standard library."""
    return {
        path: files.copied(path)
        for folder in python.library
        for _, path in files.walk(folder)
        if path.endswith(".so") and os.path.isfile(path)
    }


def order_of(given: Mapping[str, Any]) -> Order:
    """From what JSON says."""
    known = {name: Layer(**layer) for name, layer in given.get("known", {}).items()}
    base = given.get("base")
    if base is not None:
        below = tuple(Layer(**layer) for layer in base.get("layers", ()))
        base = Base(**{**base, "layers": below, "history": tuple(base.get("history", ()))})
    return Order(**{**given, "known": known, "base": base})
