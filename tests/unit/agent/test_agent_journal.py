from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidemill.agent.journal import Journal, replay


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(os.open(tmp_path, os.O_RDONLY))


def key(attempt: str, epoch: int = 1, **more: object) -> dict[str, object]:
    return {"attempt": attempt, "rank": 0, "epoch": epoch, **more}


def test_replay_knows_intents_exits_and_what_was_forgotten(journal: Journal, tmp_path: Path) -> None:
    journal.write("node", {"pid": 7})
    journal.write("intent", key("a"))
    journal.write("intent", key("b"))
    journal.write("exit", key("b", exit_code=3))
    journal.write("intent", key("c"))
    journal.write("exit", key("c", exit_code=0))
    journal.write("forget", {"attempt": "c", "rank": 0})
    state = replay(str(tmp_path))
    assert state.node == {"pid": 7}
    assert {k: (r.epoch, r.exit and r.exit["exit_code"]) for k, r in state.tasks.items()} == {
        ("a", 0): (1, None),
        ("b", 0): (1, 3),
    }


def test_a_newer_epoch_opens_the_task_again(journal: Journal, tmp_path: Path) -> None:
    journal.write("exit", key("a", exit_code=1))
    journal.write("intent", key("a", 2))
    record = replay(str(tmp_path)).tasks["a", 0]
    assert (record.epoch, record.exit) == (2, None)


def test_a_torn_last_line_never_happened(journal: Journal, tmp_path: Path) -> None:
    journal.write("intent", key("a"))
    with open(tmp_path / "journal", "ab") as file:
        file.write(b'{"t":"exit","attempt":"a","ra')
    assert replay(str(tmp_path)).tasks["a", 0].exit is None


def test_an_absent_journal_is_empty(tmp_path: Path) -> None:
    assert replay(str(tmp_path)).tasks == {}


def test_a_full_disk_leaves_no_half_line(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.write("intent", key("a"))
    real = os.write
    calls: list[int] = []

    def half(fd: int, data: bytes) -> int:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(fd, data[:10])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        journal.write("intent", key("b"))
    monkeypatch.undo()
    journal.write("intent", key("c"))
    assert set(replay(str(tmp_path)).tasks) == {("a", 0), ("c", 0)}


def test_compaction_keeps_what_it_is_given_and_goes_on(journal: Journal, tmp_path: Path) -> None:
    for i in range(9000):
        journal.write("intent", key(f"attempt-with-a-long-name-{i:060}"), sync=False)
    assert journal.long
    journal.compact([("node", {"pid": 1}), ("intent", key("kept"))])
    journal.write("exit", key("kept", exit_code=0))
    assert not journal.long
    state = replay(str(tmp_path))
    assert list(state.tasks) == [("kept", 0)]
    assert state.tasks["kept", 0].exit is not None
    assert not (tmp_path / "journal.new").exists()
