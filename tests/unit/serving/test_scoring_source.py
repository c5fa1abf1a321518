"""The scoring server runs with the user's Python, from 3.8 on: its source must be readable to it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tidemill.serving.scoring as package

FILES = sorted(Path(package.__file__).parent.glob("*.py"))
# Of the standard library, but younger than Python 3.8.
YOUNG = {"tomllib", "zoneinfo", "graphlib"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_python_3_8_reads_it(file: Path) -> None:
    tree = ast.parse(file.read_text("utf-8"), feature_version=(3, 8))
    assert any(
        isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body
    ) or not any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in tree.body), file.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not YOUNG & {alias.name for alias in node.names}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_imports_nothing_of_ours_but_itself(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            assert all(not alias.name.startswith("tidemill") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1
            assert node.level == 1 or not (node.module or "").startswith("tidemill")
