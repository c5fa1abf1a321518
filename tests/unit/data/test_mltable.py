"""The file MLTable: what it names, where it is wrong, and how its paths are replaced."""

from __future__ import annotations

from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tidemill.data.mltable import matcher, read_paths, with_paths
from tidemill.domain.errors import InvalidRequest

GOOD = b"""# a comment
type: mltable
paths:
  - file: ./a.csv
  - folder: "azureml://datastores/d/paths/x/"
  - pattern: ../other/**/*.csv
transformations:
  - read_delimited: {delimiter: ','}
"""


def test_paths_with_their_places():
    file, folder, pattern = read_paths(GOOD, "T")
    assert (file.kind, file.value, file.line, file.column, file.relative) == ("file", "./a.csv", 4, 11, True)
    assert (folder.value, folder.relative) == ("azureml://datastores/d/paths/x/", False)
    assert (pattern.fixed, pattern.tail) == ("../other/", "**/*.csv")


def test_only_the_paths_are_replaced():
    _, folder, pattern = read_paths(GOOD, "T")
    text = with_paths(GOOD, [(folder, "./_elsewhere/0/"), (pattern, './x"y/*.csv')]).decode()
    assert text.startswith("# a comment\n")
    values = [next(iter(entry.values())) for entry in yaml.safe_load(text)["paths"]]
    assert values == ["./a.csv", "./_elsewhere/0/", './x"y/*.csv']
    assert yaml.safe_load(text)["transformations"] == yaml.safe_load(GOOD)["transformations"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("paths:\n  - fil: ./a.csv\n", "T:2:5: 'fil' is no kind of path; did you mean 'file'?"),
        ("paths:\n  - file: a\n    folder: b\n", "T:2:5: an entry of 'paths' has exactly one of"),
        ("paths:\n  - ./a.csv\n", "T:2:5: an entry of 'paths' is written"),
        ("paths:\n  - file:\n", "T:2:10: the file must be a path"),
        ("paths: ./a.csv\n", "T:1:8: 'paths' must be a list"),
        ("path:\n  - file: a\n", "Did you mean that by 'path'?"),
        ("paths: [\n", "T:2:1: it is not YAML"),
        ("", "it is empty"),
        ("a", "no mapping"),
        ("[" * 5000, "it is not YAML"),
    ],
)
def test_refused_with_line_and_column(text, words):
    with pytest.raises(InvalidRequest) as caught:
        read_paths(text.encode(), "T")
    assert words in caught.value.message


def test_not_utf8_is_refused():
    with pytest.raises(InvalidRequest, match="byte 0 is not UTF-8"):
        read_paths(b"\xff\xfe", "T")


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("*.csv", ["a.csv", ".csv"], ["d/a.csv", "a.csvx"]),
        ("**/*.csv", ["a.csv", "d/e/a.csv"], ["a.tsv"]),
        ("y=20[12]?/p-[!x]*.parquet", ["y=201z/p-1.parquet"], ["y=203z/p-1.parquet", "y=201z/p-x.parquet"]),
    ],
)
def test_patterns(pattern, good, bad):
    match = matcher(pattern)
    assert all(match.fullmatch(name) for name in good)
    assert not any(match.fullmatch(name) for name in bad)


@given(st.text(alphabet="ab[]!*?/.\\-^", max_size=12), st.text(alphabet="ab/.", max_size=8))
def test_any_pattern_is_one_or_is_refused(pattern, name):
    with suppress(InvalidRequest):
        matcher(pattern).fullmatch(name)
