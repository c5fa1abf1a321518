"""An agent that starts a process takes on the job's groups for that moment, and must come back from them."""

from __future__ import annotations

import os
import select
from pathlib import Path

from tidemill.agent import spawn


def groups(folder: Path, *, full: bool = False) -> str:
    """A folder with the file that is written to join a group; `full`: every write to it fails."""
    folder.mkdir()
    file = folder / "cgroup.procs"
    file.symlink_to("/dev/full") if full else file.touch()
    return str(folder)


def start_in_a_fork(home: str, join: str, program: str, cwd: Path) -> tuple[int, str]:
    """-> (exit code, what it wrote to standard error) of an agent that starts a program: 0 when it went on
    after it, 1 when it took it for a failed start."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(writer, 2)
            order = spawn.Order([program], {}, str(cwd), os.open("/dev/null", os.O_WRONLY), 0)
            spawn.Grouped([home]).start(order, [join])
            os._exit(0)
        except spawn.Failed:
            os._exit(1)
        finally:
            os._exit(2)
    os.close(writer)
    handle = os.pidfd_open(pid)
    assert select.select([handle], [], [], 60)[0]
    os.close(handle)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with os.fdopen(reader) as said:
        return code, said.read()


def test_an_agent_that_returns_goes_on(tmp_path: Path) -> None:
    home, job = groups(tmp_path / "home"), groups(tmp_path / "job")
    assert start_in_a_fork(home, job, "/bin/true", tmp_path) == (0, "")
    assert (tmp_path / "home/cgroup.procs").read_text() == "0"
    assert start_in_a_fork(home, job, "/no/such/program", tmp_path) == (1, "")


def test_an_agent_that_cannot_return_ends(tmp_path: Path) -> None:
    """It would stay under the job's limits and end with its group: whatever became of the start."""
    home, job = groups(tmp_path / "home", full=True), groups(tmp_path / "job")
    for program in ("/bin/true", "/no/such/program"):
        code, said = start_in_a_fork(home, job, program, tmp_path)
        assert code == spawn.STRAYED
        assert "cannot return" in said
