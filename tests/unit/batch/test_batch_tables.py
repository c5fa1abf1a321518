"""Tables as run() gets them, by the pandas of a real environment (that of MLflow 3)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "src/tidemill/serving/batch"
READ = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
import main
main.load(sys.argv[1])
batches = importlib.import_module(main.NAME + ".batches")
tables = importlib.import_module(main.NAME + ".tables")
spec = importlib.import_module(main.NAME + ".spec").read(sys.argv[2])
worker = importlib.import_module(main.NAME + ".worker")
found = []
for batch in batches.batches_of(spec):
    frame = tables.frame(spec.input, tables.read_table(spec.table), batch["slices"])
    found.append([list(frame.columns), frame.astype(object).values.tolist()])
    last = frame
print(json.dumps([found, worker.rows_of(last, True), [str(kind) for kind in last.dtypes]]))
"""


@pytest.fixture(scope="module")
def pandas() -> str:
    python = os.environ.get("TIDEMILL_MLFLOW3_PYTHON") or str(ROOT / ".venv-mlflow3" / "bin" / "python")
    if not os.path.exists(python) or subprocess.run([python, "-c", "import pandas, pyarrow"]).returncode:
        message = f"no pandas or no pyarrow for {python}: run `make mlflow`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return python


def read(python: str, root: Path, table: dict[str, Any], **settings: Any) -> Any:
    spec = {"version": 1, "script": "s.py", "input": str(root / "in"), "table": table, **settings}
    (root / "spec.json").write_text(json.dumps(spec))
    done = subprocess.run(
        [python, "-c", READ, str(PACKAGE), str(root / "spec.json")],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_delimited_files_of_one_header(tmp_path, pandas):
    (tmp_path / "in" / "x").mkdir(parents=True)
    (tmp_path / "in" / "x" / "1.csv").write_text("n;t\n1;a\n2;b\n3;c\n")
    table = {
        "paths": [{"pattern": "./**/*.csv"}],
        "transformations": [
            {"read_delimited": {"delimiter": ";", "include_path_column": True}},
            {"extract_columns_from_partition_format": {"partition_format": "{shop}/{name}.csv"}},
            {"drop_columns": ["Path", "name"]},
            {"convert_column_types": [{"columns": "n", "column_type": "float"}]},
        ],
    }
    found, rows, kinds = read(pandas, tmp_path, table, size=5)
    assert found == [
        [["n", "t", "shop"], [[1.0, "a", "x"], [2.0, "b", "x"]]],
        [["n", "t", "shop"], [[3.0, "c", "x"]]],
    ]
    assert rows == ["3.0 c x\n", 1]
    assert kinds[0] == "float64"


@pytest.mark.parametrize(
    ("header", "columns", "rows"),
    [
        ("no_header", ["Column1"], [["n"], ["1"], ["n"], ["2"]]),
        ("from_first_file", ["n"], [["1"], ["n"], ["2"]]),
        ("all_files_same_headers", ["n"], [["1"], ["2"]]),
    ],
)
def test_headers(tmp_path, pandas, header, columns, rows):
    (tmp_path / "in").mkdir()
    for number in (1, 2):
        (tmp_path / "in" / f"{number}.csv").write_text(f"n\n{number}\n")
    settings = {"header": header, "infer_column_types": False}
    table = {"paths": [{"folder": "./"}], "transformations": [{"read_delimited": settings}]}
    ((found,), _, _) = read(pandas, tmp_path, table)
    assert found == [columns, rows]


def test_lines_of_json(tmp_path, pandas):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"n": 1}\n{"n": 2}\n')
    lines = {"paths": [{"file": "./a.jsonl"}], "transformations": ["read_json_lines"]}
    assert read(pandas, tmp_path, lines, size=1)[0] == [[["n"], [[1]]], [["n"], [[2]]]]


def test_parquet_is_cut_by_its_row_groups(tmp_path, pandas):
    (tmp_path / "in").mkdir()
    script = "import sys, pandas as p; p.DataFrame({'n': range(4)}).to_parquet(sys.argv[1], row_group_size=2)"
    subprocess.run([pandas, "-c", script, str(tmp_path / "in" / "a.parquet")], check=True, timeout=110)
    parquet = {"paths": [{"file": "./a.parquet"}], "transformations": [{"read_parquet": {}}]}
    assert read(pandas, tmp_path, parquet, size=1)[0] == [[["n"], [[0], [1]]], [["n"], [[2], [3]]]]
