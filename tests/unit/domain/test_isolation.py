"""Levels of isolation: what a report adds up to, and what is said where it does not reach."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.isolation import (
    LEVELS,
    REQUIRED,
    TAG,
    Limit,
    lacking,
    level_of,
    reached,
    shortfall,
    strictest,
)

NAMES = sorted({name for names in REQUIRED.values() for name in names} | {"network", "gpu"})
reports = st.dictionaries(
    st.sampled_from(NAMES), st.booleans().map(lambda on: Limit(on, "x", "" if on else "y"))
)


@given(reports)
def test_a_level_is_reached_when_nothing_of_it_lacks(limits: dict[str, Limit]) -> None:
    level = reached(limits)
    assert not lacking(level, limits)
    for higher in LEVELS[LEVELS.index(level) + 1 :]:
        assert lacking(higher, limits)
        assert shortfall(higher, limits)
    for lower in LEVELS[: LEVELS.index(level) + 1]:
        assert shortfall(lower, limits) == ""


@given(reports, st.sampled_from(NAMES))
def test_one_more_limit_never_lowers_the_level(limits: dict[str, Limit], name: str) -> None:
    if name != "gpu" or name in limits:  # that there are GPUs is no limit
        more = {**limits, name: Limit(True)}
        assert LEVELS.index(reached(more)) >= LEVELS.index(reached(limits))


def test_the_sentence_names_each_reason_once() -> None:
    no_bwrap = Limit(False, "", "bubblewrap is not installed")
    limits = dict.fromkeys(("files", "namespaces", "syscalls"), no_bwrap)
    assert shortfall("rootless", limits) == (
        "isolation rootless is required, this host gives plain. "
        "Not enforced: files, namespaces, syscalls (bubblewrap is not installed)."
    )
    assert "cpu" in shortfall("full", limits)


def test_a_host_with_gpus_must_withhold_them() -> None:
    limits = {name: Limit(True) for name in REQUIRED["full"]} | {"gpu": Limit(False, "", "why")}
    assert reached(limits) == "plain"
    assert reached({**limits, "gpu": Limit(True)}) == "full"


def test_tags() -> None:
    assert level_of({}, "tags") == ""
    assert level_of({TAG: "full"}, "tags") == "full"
    with pytest.raises(InvalidRequest, match="'high': use one of plain, rootless, full"):
        level_of({TAG: "high"}, "tags")
    assert strictest("", "plain", "rootless", "") == "rootless"
    assert strictest() == ""
