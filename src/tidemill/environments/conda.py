"""Conda environment files -> requirements for uv. Every complaint has line and column.

There is no conda here: packages come from the Python package index. Names that differ are mapped, parts of a
Python installation are dropped with a note, and tools that the index does not have are refused by name
(`data/conda_names.toml`).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from tidemill.environments import matchspec
from tidemill.environments.requirement import Place, Requirement, invalid, normal_name, parse_pip

if TYPE_CHECKING:
    from yaml.nodes import Node

FILE = "conda file"
KEYS = ("name", "channels", "dependencies", "variables", "prefix", "platforms", "category")


@dataclass(frozen=True, slots=True)
class CondaFile:
    """`python` is a PEP 440 specifier ("" = any), `python_place` where it was asked for."""

    name: str = ""
    python: str = ""
    python_place: Place | None = None
    requirements: tuple[Requirement, ...] = ()
    options: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Names:
    rename: dict[str, str]
    bundled: dict[str, list[str]]
    drop: dict[str, str]
    refuse: dict[str, str]


def parse_conda(text: str) -> CondaFile:
    """Reads the YAML text of a conda environment file. Raises InvalidRequest naming line and column."""
    root = _compose(text)
    if root is None or not _is_mapping(root):
        raise invalid(
            _place(root), "a conda file is a mapping with the key 'dependencies'.", "InvalidCondaFile"
        )
    values, notes = _keys(root)
    if "dependencies" not in values:
        raise invalid(_place(root), "the key 'dependencies' is missing.", "InvalidCondaFile")
    specs, pip = _dependencies(values["dependencies"])
    packages = _packages(specs)
    lines = parse_pip(pip)
    return CondaFile(
        name=_scalar(values["name"], "name") if "name" in values else "",
        python=packages.python,
        python_place=packages.python_place,
        requirements=packages.requirements + lines.requirements,
        options=lines.options,
        variables=_variables(values["variables"]) if "variables" in values else (),
        notes=(*notes, *packages.notes),
    )


def known_names() -> list[str]:
    """Names that a misspelt package is compared with."""
    names = _names()
    return sorted({*names.rename, *(normal_name(n.split("[")[0]) for n in names.rename.values()), *_POPULAR})


def _packages(specs: list[tuple[str, Place]]) -> CondaFile:
    names, notes, requirements = _names(), [], []
    python, python_place = "", None
    parsed = [(_match(text, place), text, place) for text, place in specs]
    present = {normal_name(names.rename.get(spec.name, spec.name).split("[")[0]) for spec, _, _ in parsed}
    for spec, written, place in parsed:
        if spec.name == "python":
            python, python_place = spec.specifier, place
        elif (spec.name, spec.specifier) == ("pip", ""):
            continue  # every environment has one
        elif spec.name in names.drop:
            notes.append(f"{written} ({place}) is left out: {names.drop[spec.name]}.")
        elif spec.name in names.bundled and present & set(names.bundled[spec.name]):
            notes.append(f"{written} ({place}) is left out: the package's wheel brings its own.")
        elif spec.name in names.refuse or spec.name.startswith("r-"):
            reason = names.refuse.get(spec.name, "R packages are not offered")
            raise invalid(place, f"{spec.name!r} is not a Python package: {reason}.", "PackageNotOffered")
        else:
            requirements.append(_requirement(spec, written, place, names))
            if spec.build:
                notes.append(
                    f"The build {spec.build!r} of {written} ({place}) is not used: wheels have none."
                )
    if requirements:
        listed = ", ".join(requirement.name for requirement in requirements)
        notes.append(f"There is no conda here: {listed} come from the Python package index.")
    return CondaFile("", python, python_place, tuple(requirements), notes=tuple(notes))


def _requirement(spec: matchspec.MatchSpec, written: str, place: Place, names: _Names) -> Requirement:
    package = names.rename.get(spec.name, spec.name)
    return Requirement(normal_name(package.split("[")[0]), package + spec.specifier, written, place)


def _match(text: str, place: Place) -> matchspec.MatchSpec:
    try:
        return matchspec.parse(text)
    except ValueError as error:
        raise invalid(place, f"{error}.", "InvalidCondaFile") from None


def _dependencies(node: Node) -> tuple[list[tuple[str, Place]], list[tuple[str, Place]]]:
    """The list under `dependencies` -> (conda lines, pip lines)."""
    specs: list[tuple[str, Place]] = []
    pip: list[tuple[str, Place]] = []
    for item in _items(node, "dependencies"):
        if not _is_mapping(item):
            specs.append((_scalar(item, "an entry of 'dependencies'"), _place(item)))
            continue
        for key, value in item.value:
            if key.value != "pip":
                problem = (
                    f"{key.value!r} is no entry of 'dependencies': write a package, or 'pip:' with a list."
                )
                raise invalid(_place(key), problem, "InvalidCondaFile")
            pip += [(_scalar(line, "an entry of 'pip'"), _place(line)) for line in _items(value, "pip")]
    return specs, pip


def _keys(root: Any) -> tuple[dict[str, Node], list[str]]:
    values: dict[str, Node] = {}
    notes: list[str] = []
    for key, value in root.value:
        name = str(key.value)
        if name not in KEYS:
            near = difflib.get_close_matches(name, KEYS, 1, 0.7)
            if near:
                problem = f"unknown key {name!r}: did you mean {near[0]!r}?"
                raise invalid(_place(key), problem, "InvalidCondaFile")
            notes.append(f"The key {name!r} ({_place(key)}) has no meaning in a conda file and is left out.")
        values[name] = value
    return values, notes


def _variables(node: Any) -> tuple[tuple[str, str], ...]:
    if not _is_mapping(node):
        raise invalid(_place(node), "'variables' is a mapping of names to values.", "InvalidCondaFile")
    return tuple((str(key.value), _scalar(value, f"variable {key.value!r}")) for key, value in node.value)


def _items(node: Any, what: str) -> list[Any]:
    from yaml.nodes import SequenceNode

    if isinstance(node, SequenceNode):
        return node.value
    if node.value == "":  # "pip:" with nothing below it
        return []
    raise invalid(_place(node), f"{what!r} is a list: start each line with '- '.", "InvalidCondaFile")


def _scalar(node: Any, what: str) -> str:
    from yaml.nodes import ScalarNode

    if not isinstance(node, ScalarNode):
        raise invalid(_place(node), f"{what} is a single text, not a list or mapping.", "InvalidCondaFile")
    return str(node.value)


def _is_mapping(node: Any) -> bool:
    from yaml.nodes import MappingNode

    return isinstance(node, MappingNode)


def _compose(text: str) -> Node | None:
    import yaml

    try:
        return yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = Place(FILE, mark.line + 1, mark.column + 1) if mark else Place(FILE, 1)
        problem = getattr(error, "problem", None) or str(error)
        raise invalid(place, f"this is not YAML: {problem}.", "InvalidCondaFile") from None


def _place(node: Any) -> Place:
    return (
        Place(FILE, 1) if node is None else Place(FILE, node.start_mark.line + 1, node.start_mark.column + 1)
    )


@cache
def _names() -> _Names:
    import tomllib

    text = resources.files("tidemill.environments").joinpath("data", "conda_names.toml").read_text("utf-8")
    return _Names(**tomllib.loads(text))


_POPULAR = (
    "accelerate", "azure-ai-ml", "azure-identity", "azure-storage-blob", "catboost", "dask", "datasets",
    "deepspeed", "fastapi", "flask", "gensim", "hyperopt", "imbalanced-learn", "ipykernel", "jax",
    "joblib", "jupyter", "lightgbm", "matplotlib", "mlflow", "mlflow-skinny", "networkx", "nltk", "numba",
    "numpy", "onnx", "onnxruntime", "openpyxl", "optuna", "pandas", "pillow", "plotly", "polars",
    "pyarrow", "pydantic", "pyspark", "pytest", "pytorch-lightning", "pyyaml", "ray", "requests",
    "scikit-image", "scikit-learn", "scipy", "seaborn", "sentence-transformers", "shap", "spacy",
    "statsmodels", "tensorboard", "tokenizers", "torchaudio", "torchvision", "tqdm", "transformers",
    "ultralytics", "xgboost",
)  # fmt: skip
