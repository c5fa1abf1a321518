"""From inputs to mini-batches: everything once, rows whole, the same each time; what cannot be cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.serving.batch import batches
from tidemill.serving.batch.spec import Refused, Spec
from tidemill.serving.batch.tables import partition, read_table

CSV = [{"read_delimited": {"delimiter": ","}}]


def cut(root: Path, table: dict[str, Any] | None = None, **settings: Any) -> list[dict[str, Any]]:
    return batches.batches_of(Spec("s.py", str(root), table=table, **settings))


@given(st.integers(0, 60), st.integers(1, 9))
def test_files_are_cut_by_count(count, size):
    paths = [f"f{number}" for number in range(count)]
    found = batches.by_count(paths, size)
    assert [path for batch in found for path in batch["files"]] == paths
    assert all(len(batch["files"]) == size for batch in found[:-1])


def test_folders_are_read_deep_and_in_order(tmp_path):
    for path in ("b/2", "a/1", "c", "a/0"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("x")
    assert cut(tmp_path, size=3) == [{"files": ["a/0", "a/1", "b/2"]}, {"files": ["c"]}]
    assert batches.digest_of(cut(tmp_path, size=3)) != batches.digest_of(cut(tmp_path, size=2))
    assert cut(tmp_path / "c") == [{"files": ["c"]}]


CELL = st.text(st.characters(blacklist_characters="\r", blacklist_categories=("Cs",)), max_size=9)


@given(st.lists(CELL, min_size=1, max_size=40), st.integers(1, 60), st.booleans(), st.booleans())
def test_rows_of_a_table_are_never_cut(tmp_path_factory, cells, size, quoted, ends):
    """`quoted`: with line ends in fields. `ends`: the last line has an end of its own."""
    root = tmp_path_factory.mktemp("table")
    rows = [
        '"{}"\n'.format(cell.replace('"', '""')) if quoted else cell.replace("\n", "") + ",\n"
        for cell in cells
    ]
    body = "".join(rows)
    (root / "t.csv").write_bytes(("head\n" + (body if ends else body[:-1])).encode())
    settings = [{"read_delimited": {"support_multi_line": quoted}}]
    found = cut(root, {"paths": [{"file": "./t.csv"}], "transformations": settings}, size=size)
    raw = (root / "t.csv").read_bytes()
    parts = [raw[item[1] : item[2]] for batch in found for item in batch["slices"]]
    assert b"".join(parts) == raw[5:]
    starts, at = {5}, 5
    for row in rows:
        at += len(row.encode())
        starts.add(at)
    assert all(item[1] in starts for batch in found for item in batch["slices"])
    assert all(len(part) >= size for part in parts[:-1])


def test_small_files_go_together(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.csv").write_text("a,b\n" + "1,2\n" * 10)
    found = cut(tmp_path, {"paths": [{"pattern": "*.csv"}], "transformations": CSV}, size=85)
    assert [[item[0] for item in batch["slices"]] for batch in found] == [
        ["0.csv", "1.csv"],
        ["2.csv", "3.csv"],
        ["4.csv"],
    ]


def test_an_mltable_without_a_reader_is_a_list_of_files(tmp_path):
    for path in ("a.png", "b.txt", "deep/c.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("x")
    assert cut(tmp_path, {"paths": [{"pattern": "./**/*.png"}, {"file": "./a.png"}]}) == [
        {"files": ["a.png", "deep/c.png"]}
    ]


FORMAT = "{shop}/{day:yyyy-MM-dd}/{name}.{extension}"


@pytest.mark.parametrize(
    ("form", "path", "values"),
    [
        (FORMAT, "x/a/2024-01-02/p.csv", {"shop": "a", "day": "2024-01-02", "name": "p", "extension": "csv"}),
        (FORMAT, "a/2024-1-2/p.csv", None),
        ("/{Brand}/*.csv", "dominicks/z.csv", {"Brand": "dominicks"}),
        ("{a}.csv", "b.txt", None),
    ],
)
def test_partition_formats(form, path, values):
    assert partition(form, path) == values


def test_keys_gather_all_of_a_partition(tmp_path):
    for path in ("a/x/0.csv", "a/y/0.csv", "b/x/0.csv", "b/x/1.csv"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("v\n1\n")
    form = {"extract_columns_from_partition_format": {"partition_format": "{shop}/{brand}/{name}.csv"}}
    table = {"paths": [{"folder": "./"}], "transformations": [*CSV, form]}
    found = cut(tmp_path, table, partition_keys=("brand",))
    assert [(batch["key"], len(batch["slices"])) for batch in found] == [
        ({"brand": "x"}, 3),
        ({"brand": "y"}, 1),
    ]
    with pytest.raises(Refused, match=r"partition_keys has 'size'.*has only shop, brand, name"):
        cut(tmp_path, table, partition_keys=("size",))
    with pytest.raises(Refused, match="which has none"):
        cut(tmp_path, {"paths": [{"folder": "."}], "transformations": CSV}, partition_keys=("brand",))
    with pytest.raises(Refused, match="the input is plain files"):
        cut(tmp_path, partition_keys=("brand",))


def test_what_is_not_known_is_refused_by_name(tmp_path):
    with pytest.raises(Refused, match="transformation 'take_random_sample' is not offered"):
        read_table({"transformations": [*CSV, {"take_random_sample": {"probability": 0.1}}]})
    with pytest.raises(Refused, match="both read_delimited and read_parquet"):
        read_table({"transformations": [*CSV, "read_parquet"]})
    with pytest.raises(Refused, match=r"names file '\./no\.csv'"):
        cut(tmp_path, {"paths": [{"file": "./no.csv"}], "transformations": CSV})
    with pytest.raises(Refused, match="there is nothing to do"):
        cut(tmp_path)
