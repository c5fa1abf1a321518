"""A TERM for a job in its sandbox: who gets it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tidemill.agent import boxed
from tidemill.sandbox import processes


@pytest.fixture
def outer() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_a_job_that_ends_at_once_does_not_look_like_none(
    outer: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sandbox's own process, ended by the same signal, would hide how the job ended."""
    job = subprocess.Popen(["sleep", "600"])
    send, got = processes.kill, set[int]()

    def at_once(pids: list[int], number: int = signal.SIGKILL) -> None:
        send(pids, number)
        got.update(pids)
        if job.pid in pids:
            job.wait()

    monkeypatch.setattr(processes, "kill", at_once)
    boxed.terminate([outer.pid, job.pid], outer.pid)
    assert job.returncode == -signal.SIGTERM
    assert not os.path.exists(f"/proc/{job.pid}")
    monkeypatch.undo()
    assert got == {job.pid}
    boxed.terminate([outer.pid], outer.pid)
    assert outer.wait() == -signal.SIGTERM, "there is no job yet: it goes itself"
