"""Processors of nodes: nobody's twice, as many as granted, kept where they were."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.cpus import changes, share_out
from tidemill.domain.model import Vector
from tidemill.domain.scheduling.capacity import elastic_grants
from tidemill.domain.scheduling.types import Host

sizes = st.dictionaries(st.sampled_from("abcdefg"), st.integers(100, 9000), min_size=1)


def granted(asked: dict[str, int], count: int) -> dict[str, int]:
    vectors = {key: Vector(milli, 1) for key, milli in asked.items()}
    return {k: v.cpu_milli for k, v in elastic_grants(Host(Vector(count * 1000, 1 << 40)), vectors).items()}


@given(sizes, st.integers(1, 16))
def test_what_was_granted_is_there_and_whole_processors_are_nobody_elses(asked, count) -> None:
    grants = granted(asked, count)
    shares = share_out(grants, range(count))
    for key, mine in shares.items():
        assert len(mine) * 1000 >= grants[key]
        others = {cpu for other, cpus in shares.items() if other != key for cpu in cpus}
        assert len(set(mine) - others) >= grants[key] // 1000


@given(sizes, sizes, st.integers(1, 16))
def test_a_node_keeps_what_it_had_to_itself(before, after, count) -> None:
    first, grants = share_out(granted(before, count), range(count)), granted(after, count)
    second = share_out(grants, range(count), first)
    for key in before.keys() & after.keys():
        others = {cpu for other, cpus in first.items() if other in after and other != key for cpu in cpus}
        alone = set(first[key]) - others
        assert len(alone & set(second[key])) >= min(len(alone), grants[key] // 1000)


@given(sizes, sizes, st.integers(1, 16))
def test_who_was_told_is_not_told_again(before, after, count) -> None:
    told = share_out(granted(before, count), range(count))
    told |= dict(changes(granted(after, count), range(count), told))
    assert changes(granted(after, count), range(count), told) == []


def test_a_fraction_is_shared_and_too_much_is_shared_too() -> None:
    assert share_out({"a": 1500, "b": 500}, (0, 1)) == {"a": [0, 1], "b": [1]}
    assert share_out({"a": 2000, "b": 1000}, (0, 1)) == {"a": [0, 1], "b": [0, 1]}


def test_only_those_are_told_whose_processors_change_and_who_gives_some_up_first() -> None:
    assert changes({"a": 2000}, (0, 1), {}) == []
    assert changes({"b": 1000, "a": 2000}, range(3), {"a": [2]}) == [("b", [0]), ("a", [1, 2])]
    assert changes({"b": 2000}, (0, 1), {"b": [1]}) == [("b", [0, 1])]
    assert changes({"b": 2000}, (0, 1), {"b": [0, 1]}) == []
