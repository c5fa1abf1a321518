"""Ranges of user ids: one owner each, across homes and processes, and none for nodes that are gone."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tidemill.sandbox import uids


def node(tmp_path: Path, name: str) -> str:
    (tmp_path / name).mkdir(parents=True, exist_ok=True)
    return str(tmp_path / name)


def first_of(registry: str, directory: str) -> int:
    return uids.claim(directory, registry).first


def test_two_homes_never_get_the_same(tmp_path: Path) -> None:
    registry = str(tmp_path / "uids")
    nodes = [node(tmp_path, f"{home}/n-{i}") for home in ("a", "b") for i in range(20)]
    with ProcessPoolExecutor(4) as pool:
        firsts = list(pool.map(partial(first_of, registry), nodes))
    assert len(set(firsts)) == 40
    assert first_of(registry, nodes[7]) == firsts[7]  # asked again


def test_a_node_that_is_gone_holds_none(tmp_path: Path) -> None:
    registry = str(tmp_path / "uids")
    one, two, three = (node(tmp_path, name) for name in ("one", "two", "three"))
    given = first_of(registry, one)
    assert first_of(registry, two) != given
    os.rmdir(one)
    assert first_of(registry, three) == given
    assert sorted(os.listdir(registry)) == ["0", "1"]


def test_ranges_do_not_overlap_and_fit(tmp_path: Path) -> None:
    for number in (0, 1, uids.RANGES - 1):
        made = uids.Range(number)
        assert made.first + made.count == made.keeper
        assert made.keeper + 1 == made.relay
        assert made.relay + 1 == uids.Range(number + 1).first
    assert uids.Range(uids.RANGES - 1).relay < 1 << 31
    assert uids.FIRST == 1879048192


def test_no_range_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uids, "RANGES", 1)
    registry = str(tmp_path / "uids")
    uids.claim(node(tmp_path, "one"), registry)
    with pytest.raises(uids.Full, match="all 1 ranges"):
        uids.claim(node(tmp_path, "two"), registry)
