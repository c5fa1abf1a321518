"""What is recorded, and that whatever is done to the log afterwards is found."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.activity import Chain, Head, Outcome, Record, chained, is_kept, outcome_of, shows_secret

ML = "Microsoft.MachineLearningServices/workspaces"


def log(count: int) -> list[Record]:
    made = [Record(n, f"a/{n}", Outcome.SUCCEEDED, actor="o", status=200) for n in range(count)]
    return list(chained(Head(), made))


def broken_at(records: list[Record], head: Head, checkpoints: dict[int, bytes] | None = None) -> int | None:
    chain = Chain(checkpoints or {})
    for record in records:
        broken = chain.add(record)
        if broken is not None:
            return broken.seq
    end = chain.end(head)
    return None if end is None else end.seq


def head_of(records: list[Record]) -> Head:
    return Head(records[-1].seq, records[-1].hash)


@given(st.integers(1, 20))
def test_an_untouched_log_holds(count: int) -> None:
    records = log(count)
    assert broken_at(records, head_of(records), {count: records[-1].hash}) is None


@given(st.integers(0, 9), st.data())
def test_any_changed_field_is_found(at: int, data: st.DataObject) -> None:
    records = log(10)
    name = data.draw(st.sampled_from([f.name for f in fields(Record) if f.name != "seq"]))
    old = getattr(records[at], name)
    new = {int: 77_777, bytes: b"\0" * 32}.get(type(old), "other")
    records[at] = replace(records[at], **{name: new})
    assert broken_at(records, head_of(log(10))) == at + 1


@given(st.integers(0, 9))
def test_a_removed_record_is_found(at: int) -> None:
    records = log(10)
    head = head_of(records)
    del records[at]
    assert broken_at(records, head) == at + 1 if at else broken_at(records, head) == 1


@given(st.integers(0, 8))
def test_swapped_records_are_found(at: int) -> None:
    records = log(10)
    a, b = records[at], records[at + 1]
    records[at], records[at + 1] = replace(b, seq=a.seq), replace(a, seq=b.seq)
    assert broken_at(records, head_of(log(10))) == at + 1


@given(st.integers(1, 9))
def test_a_cut_end_is_found_by_the_head_or_by_a_checkpoint(kept: int) -> None:
    records = log(10)
    assert broken_at(records[:kept], head_of(records)) == kept + 1
    cut = records[:kept]
    # The head was cut, too: the signed checkpoint is left.
    assert broken_at(cut, head_of(cut), {10: records[-1].hash}) == kept + 1
    assert broken_at(cut, head_of(cut)) is None


def test_a_log_written_anew_is_found_by_a_checkpoint() -> None:
    anew = list(chained(Head(), [replace(r, actor="other", seq=0, hash=b"") for r in log(10)]))
    assert broken_at(anew, head_of(anew)) is None
    assert broken_at(anew, head_of(anew), {4: log(10)[3].hash}) == 4


def test_a_log_may_begin_after_a_checkpoint_only() -> None:
    records = log(10)
    assert broken_at(records[4:], head_of(records), {4: records[3].hash}) is None
    assert broken_at(records[4:], head_of(records)) == 1


@pytest.mark.parametrize(
    ("method", "action", "status", "kept"),
    [
        ("PUT", f"{ML}/jobs/write", 201, True),
        ("PUT", f"{ML}/jobs/write", 400, True),
        ("GET", f"{ML}/jobs/read", 200, False),
        ("GET", f"{ML}/jobs/read", 404, False),
        ("GET", f"{ML}/jobs/read", 403, True),
        ("GET", f"{ML}/jobs/read", 401, True),
        ("POST", f"{ML}/experiments/runs/read", 200, False),
        ("POST", f"{ML}/experiments/runs/write", 200, False),
        ("POST", f"{ML}/metrics/write", 200, False),
        ("POST", f"{ML}/experiments/runs/write", 403, True),
        ("POST", f"{ML}/datastores/listSecrets/action", 200, True),
        ("GET", "Microsoft.KeyVault/vaults/secrets/getSecret/action", 200, True),
        ("POST", "signed-in", 200, True),
        ("POST", "public", 200, False),
    ],
)
def test_what_is_kept(method: str, action: str, status: int, kept: bool) -> None:
    assert is_kept(method, action, status, signs_in=False) is kept


def test_sign_ins_and_outcomes() -> None:
    assert is_kept("GET", "public", 200, signs_in=True)
    assert [outcome_of(s) for s in (200, 404, 500, 401, 403)] == [
        Outcome.SUCCEEDED, Outcome.FAILED, Outcome.FAILED, Outcome.REFUSED, Outcome.REFUSED,
    ]  # fmt: skip
    assert shows_secret(f"{ML}/listKeys/action")
    assert not shows_secret(f"{ML}/connections/write")
