"""What is needed is never chosen, whatever the rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.retention import DAY_US, Candidate, Kind, Rules, decide, read_rules

NOW = 400 * DAY_US
days = st.none() | st.integers(1, 500)
rules = st.builds(Rules, days, days, days, st.none() | st.integers(0, 5))
candidates = st.lists(
    st.builds(
        Candidate,
        st.sampled_from(Kind),
        st.text("abcdef", min_size=1, max_size=6),
        st.integers(0, NOW + DAY_US),
        st.integers(0, 1 << 40),
        st.just(()) | st.just(("job a",)),
    ),
    max_size=30,
    unique_by=lambda one: (one.kind, one.name),
)


@given(rules, candidates)
def test_nothing_that_is_needed_or_young_goes(given_rules: Rules, found: list[Candidate]) -> None:
    verdicts = decide(given_rules, found, NOW)
    assert [verdict.candidate for verdict in verdicts] == found
    kept = {
        Kind.JOB_FILES: given_rules.job_files_days,
        Kind.ENVIRONMENT: given_rules.environments_days,
        Kind.UPLOAD: given_rules.uploads_days,
    }
    for verdict in verdicts:
        one = verdict.candidate
        assert verdict.why
        if not verdict.remove:
            continue
        assert not one.named_by
        if one.kind is Kind.BACKUP:
            assert given_rules.backups_keep is not None
        else:
            limit = kept[one.kind]
            assert limit is not None
            assert NOW - one.used_at > limit * DAY_US


@given(rules, candidates)
def test_the_newest_backups_stay(given_rules: Rules, found: list[Candidate]) -> None:
    gone = [
        v.candidate for v in decide(given_rules, found, NOW) if v.remove and v.candidate.kind is Kind.BACKUP
    ]
    stay = [one for one in found if one.kind is Kind.BACKUP and one not in gone]
    if given_rules.backups_keep is None:
        assert not gone
    else:
        assert len(stay) >= min(given_rules.backups_keep, len(stay) + len(gone))
    newest_gone = max((one.used_at for one in gone), default=0)
    oldest_kept = min((one.used_at for one in stay if not one.named_by), default=NOW * 2)
    assert newest_gone <= oldest_kept


@given(candidates)
def test_without_rules_all_stays(found: list[Candidate]) -> None:
    assert not any(verdict.remove for verdict in decide(Rules(), found, NOW))


def test_rules_that_are_none() -> None:
    assert read_rules({"uploads_days": 3}, Rules(5)) == Rules(5, uploads_days=3)
    assert read_rules({"job_files_days": None}, Rules(5)) == Rules()
    for name, value in (("job_files_days", 0), ("uploads_days", "3"), ("uploads_days", True), ("days", 1)):
        with pytest.raises(InvalidRequest, match=name):
            read_rules({name: value})
