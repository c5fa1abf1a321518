"""What every engine does."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tidemill.engines.base import EngineError, InvalidTask, TaskKey, Unreachable


async def test_open_twice_repeats_ready(any_engine) -> None:
    await any_engine.open()
    before = len(any_engine.events.seen)
    await any_engine.open()
    await any_engine.events.until(lambda e: e.kind == "node_ready" and any_engine.events.seen.index(e) >= 0)
    await any_engine.run("a.1", "exit 0")
    again = [e for e in any_engine.events.seen[before:] if e.kind == "node_ready"]
    assert len(again) == 1


async def test_close_of_an_absent_node_is_closed(any_engine) -> None:
    await any_engine.engine.close_node("n-9")
    assert (await any_engine.events.kind("node_closed", "n-9")).node_id == "n-9"


@pytest.mark.parametrize(
    ("script", "exit_code", "signal"),
    [("exit 0", 0, None), ("exit 3", 3, None), ("exit 137", 137, None), ("kill -9 $$", None, 9)],
)
async def test_how_a_task_ended(any_engine, script: str, exit_code: int | None, signal: int | None) -> None:
    await any_engine.open()
    event = await any_engine.run("a.1", script)
    assert (event.exit_code, event.signal, event.reason, event.epoch) == (exit_code, signal, "", 1)
    started = next(e for e in any_engine.events.seen if e.kind == "task_started")
    assert started.task == TaskKey("a.1", 0)
    assert 0 < started.at <= event.at
    assert 0 < started.mono <= event.mono


async def test_a_start_is_carried_out_once(any_engine) -> None:
    await any_engine.open()
    spec = await any_engine.spec("a.1", "echo once")
    await any_engine.engine.start("n-1", spec)
    await any_engine.engine.start("n-1", spec)
    await any_engine.events.exited("a.1")
    await any_engine.engine.start("n-1", spec)
    assert (await any_engine.run("b.1", "exit 0")).exit_code == 0
    assert await any_engine.log("a.1") == "once\n"
    assert sum(e.kind == "task_started" and e.task == TaskKey("a.1", 0) for e in any_engine.events.seen) == 1


async def test_an_older_epoch_is_refused_and_a_newer_one_runs(any_engine) -> None:
    await any_engine.open()
    spec = await any_engine.spec("a.1", "echo ran")
    await any_engine.engine.start("n-1", replace(spec, epoch=2))
    await any_engine.events.exited("a.1")
    with pytest.raises(InvalidTask, match="epoch 1"):
        await any_engine.engine.start("n-1", spec)
    await any_engine.engine.start("n-1", replace(spec, epoch=3))
    await any_engine.events.until(lambda e: e.kind == "task_exited" and e.epoch == 3)
    assert await any_engine.log("a.1") == "ran\nran\n"


async def test_stop_before_start_keeps_it_from_running(any_engine) -> None:
    await any_engine.open()
    spec = await any_engine.spec("a.1", "echo ran")
    await any_engine.engine.stop("n-1", TaskKey("a.1", 0), 1, "canceled by its user")
    event = await any_engine.events.exited("a.1")
    assert (event.reason, event.exit_code, event.signal) == ("stopped", None, None)
    await any_engine.engine.start("n-1", spec)
    await any_engine.run("b.1", "exit 0")
    assert await any_engine.log("a.1") == ""


async def test_stop_of_a_running_task(any_engine) -> None:
    await any_engine.open()
    await any_engine.engine.start("n-1", await any_engine.spec("a.1", "sleep 600"))
    await any_engine.events.until(lambda e: e.kind == "task_started")
    await any_engine.engine.stop("n-1", TaskKey("a.1", 0), 1, "canceled by its user")
    event = await any_engine.events.exited("a.1")
    assert (event.reason, event.signal, event.message) == ("stopped", 15, "canceled by its user")


async def test_events_are_repeated_to_a_new_server_until_forgotten(any_engine) -> None:
    await any_engine.open()
    await any_engine.run("a.1", "exit 3")
    await any_engine.run("b.1", "exit 0")
    await any_engine.engine.forget("n-1", TaskKey("b.1", 0))
    await any_engine.restart()
    held = await any_engine.engine.held()
    assert [(h.node_id, h.alive) for h in held] == [("n-1", True)]
    assert (await any_engine.events.exited("a.1")).exit_code == 3
    await any_engine.events.kind("node_ready")
    await any_engine.run("c.1", "exit 0")
    assert TaskKey("b.1", 0) not in {e.task for e in any_engine.events.seen}


async def test_forget_of_what_runs_is_refused(any_engine) -> None:
    await any_engine.open()
    await any_engine.engine.start("n-1", await any_engine.spec("a.1", "sleep 600"))
    with pytest.raises(InvalidTask, match="still has processes"):
        await any_engine.engine.forget("n-1", TaskKey("a.1", 0))
    await any_engine.engine.forget("n-1", TaskKey("z.1", 0))  # absent: silent


async def test_verbs_on_an_absent_node_are_unreachable(any_engine) -> None:
    with pytest.raises(Unreachable, match="n-9"):
        await any_engine.engine.prepare_dir("n-9", "a.1")
    with pytest.raises(Unreachable):
        await any_engine.engine.stop("n-9", TaskKey("a.1", 0), 1, "x")


async def test_logs_are_read_by_offset_and_never_outside(any_engine, tmp_path) -> None:
    await any_engine.open()
    await any_engine.run("a.1", "echo 0123456789")
    engine = any_engine.engine
    assert await engine.read_log("n-1", "a.1", "log.txt", 4, 3) == b"456"
    assert await engine.read_log("n-1", "a.1", "log.txt", 400, 3) == b""
    assert await engine.log_size("n-1", "a.1", "log.txt") == 11
    assert await engine.read_log("n-1", "a.1", "not-yet.txt", 0, 3) == b""
    assert await engine.log_size("n-1", "a.1", "not-yet.txt") == 0
    (tmp_path / "secret").write_text("secret")
    work = await engine.prepare_dir("n-1", "a.1")
    for path in ("../../../secret", "/etc/passwd"):
        with pytest.raises(EngineError):
            await engine.read_log("n-1", "a.1", path, 0, 10)
    os.symlink(tmp_path / "secret", f"{work}/link")
    os.symlink(tmp_path, f"{work}/folder")
    for path in ("link", "folder/secret"):
        with pytest.raises(EngineError):
            await engine.read_log("n-1", "a.1", path, 0, 10)
    with pytest.raises(EngineError, match="no directory"):
        await engine.read_log("n-1", "gone.1", "log.txt", 0, 10)


async def test_folders_and_links_are_made_once(any_engine) -> None:
    await any_engine.open()
    wanted = ("a.1", ("code", "code/outputs"), (("code/link", "outputs"),))
    work = await any_engine.engine.prepare_dir("n-1", *wanted)
    assert os.readlink(f"{work}/code/link") == "outputs"
    os.unlink(f"{work}/code/link")
    os.symlink("mine", f"{work}/code/link")
    assert await any_engine.engine.prepare_dir("n-1", *wanted) == work
    assert os.readlink(f"{work}/code/link") == "mine"


async def test_close_takes_everything_along(any_engine) -> None:
    await any_engine.open()
    await any_engine.engine.start("n-1", await any_engine.spec("a.1", "sleep 600"))
    await any_engine.engine.close_node("n-1")
    await any_engine.events.kind("node_closed")
    assert await any_engine.engine.held() == []
    assert (await any_engine.events.exited("a.1")).reason == "stopped"
    with pytest.raises(Unreachable):
        await any_engine.engine.prepare_dir("n-1", "a.1")
