"""A look at files: rows, text, pictures, and what is said of the rest."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.app.views import data_preview
from tidemill.app.views.data_preview import parquet
from tidemill.data import plain_yaml, preview
from tidemill.data.preview import MOST_CELL, MOST_COLUMNS, MOST_ROWS, Nothing, Picture, Rows, Text
from tidemill.serving.batch.tables import read_table

ROOT = Path(__file__).parents[3]
NAMES = st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.txt", "a", "a.png", "x/a.CSV"])


@given(NAMES, st.binary(max_size=400), st.booleans())
def test_no_file_is_too_odd(name: str, head: bytes, whole: bool) -> None:
    found = preview.preview(name, head, whole)
    assert isinstance(found, Rows | Text | Picture | Nothing)
    if isinstance(found, Rows):
        assert all(len(row) == len(found.columns) for row in found.rows)


def test_rows_of_delimited_files() -> None:
    found = preview.preview("x.tsv", b'a\tb\n1\t"x\ty"\n2\n', True)
    assert found == Rows(("a", "b"), (("1", "x\ty"), ("2", "")))
    assert preview.preview("x.csv", b"\xef\xbb\xbfa,b\n1,2\n3,", False) == Rows(
        ("a", "b"), (("1", "2"),), True
    )


def test_a_large_table_is_cut() -> None:
    wide = ",".join(str(number) for number in range(MOST_COLUMNS + 3))
    found = preview.preview("x.csv", f"{wide}\n{wide}\n".encode(), True)
    assert isinstance(found, Rows)
    assert (len(found.columns), found.wider, found.more) == (MOST_COLUMNS, 3, False)
    long = preview.preview("x.csv", b"a\n" + b"1\n" * (MOST_ROWS + 1), True)
    assert isinstance(long, Rows)
    assert (len(long.rows), long.more) == (MOST_ROWS, True)
    cell = preview.preview("x.csv", b"a\n" + b"x" * 1000 + b"\n", True)
    assert isinstance(cell, Rows)
    assert len(cell.rows[0][0]) == MOST_CELL


def test_json_lines_have_a_column_for_each_name() -> None:
    found = preview.preview("x.jsonl", b'{"a": 1}\n\n{"b": [1], "a": "x"}\n', True)
    assert found == Rows(("a", "b"), (("1", ""), ("x", "[1]")))
    # what cannot be read as its name says is shown as the text that it is
    assert preview.preview("x.jsonl", b"[1]\n", True) == Text("[1]\n")


def test_pictures_by_their_bytes_alone() -> None:
    assert preview.preview("x.csv", b"\x89PNG\r\n\x1a\n", True) == Picture("image/png")
    assert preview.preview("x.png", b"<svg/>", True) == Text("<svg/>")
    assert preview.preview("x", b"\0\1", True) == Nothing(
        "It is neither text nor a picture that is shown here."
    )
    assert preview.preview("x", b"", True) == Nothing("It is empty.")


def test_text_that_is_cut_within_a_character() -> None:
    assert preview.preview("x", "aä".encode()[:-1], False) == Text("a", True)
    assert isinstance(preview.preview("x", "aä".encode()[:-1], True), Nothing)


def test_a_table_by_its_transformations() -> None:
    raw = {
        "transformations": [
            {"read_delimited": {"delimiter": ";", "header": "no_header", "include_path_column": True}},
            {"drop_columns": ["Column2"]},
        ]
    }
    found = preview.of_table(read_table(raw), "p/1.txt", b"1;2;3\n", True)
    assert found == Rows(("Path", "Column1", "Column3"), (("/p/1.txt", "1", "3"),))
    kept = read_table({"transformations": [{"read_json_lines": None}, {"keep_columns": ["b"]}]})
    assert preview.of_table(kept, "x", b'{"a":1,"b":2}\n', True) == Rows(("b",), (("2",),))
    odd = read_table({"transformations": [{"read_delimited": {"encoding": "no-such"}}]})
    assert isinstance(preview.of_table(odd, "x", b"a\n", True), Nothing)


def test_yaml_of_others_has_no_aliases() -> None:
    assert plain_yaml.load(b"a: [1]") == {"a": [1]}
    bomb = b"a: &a [x]\nb: [*a, *a]\n"
    with pytest.raises(ValueError, match="alias"):
        plain_yaml.load(bomb)
    with pytest.raises(ValueError, match="nested too deep"):
        plain_yaml.load(b"[" * 5000)


@pytest.fixture(scope="module")
def python() -> str:
    found = os.environ.get("TIDEMILL_MLFLOW3_PYTHON") or str(ROOT / ".venv-mlflow3" / "bin" / "python")
    if not os.path.exists(found) or subprocess.run([found, "-c", "import pyarrow"]).returncode:
        message = f"no pyarrow for {found}: run `make mlflow`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def test_parquet_is_read_in_a_process_of_its_own(
    tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_preview, "PARQUET_S", 60.0)
    path = tmp_path / "x.parquet"
    make = (
        "import sys, pyarrow as p, pyarrow.parquet as q; "
        "q.write_table(p.table({'n': range(60), 't': ['<b>' * 99] * 60}), sys.argv[1])"
    )
    subprocess.run([python, "-c", make, str(path)], check=True, timeout=60)
    found = _parquet(path, python)
    assert isinstance(found, Rows)
    assert (found.columns, len(found.rows), found.more) == (("n", "t"), MOST_ROWS, True)
    assert found.rows[1][0] == "1"
    assert len(found.rows[1][1]) == MOST_CELL
    path.write_bytes(path.read_bytes()[:200] + b"PAR1")
    assert _parquet(path, python) == Nothing(
        "It is called parquet, and its first rows cannot be read, or are too large."
    )


def test_rows_without_an_end_are_not_waited_for(tmp_path: Path) -> None:
    flood = tmp_path / "python"
    flood.write_text("#!/bin/sh\nexec dd if=/dev/zero bs=1M\n")
    flood.chmod(0o755)
    assert isinstance(_parquet(flood, str(flood)), Nothing)


def _parquet(path: Path, python: str) -> preview.Preview:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return asyncio.run(parquet(descriptor, python))
    finally:
        os.close(descriptor)
