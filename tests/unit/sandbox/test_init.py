"""The first process of a sandbox: what it says of the job's end, on this kernel."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill.agent import boxed
from tidemill.sandbox import init, seccomp

MACHINE = os.uname().machine
SETPRIV = "/usr/bin/setpriv"  # of util-linux
AS_NOBODY = ["--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []

pytestmark = pytest.mark.skipif(not init.program(MACHINE), reason=f"no init is written for {MACHINE}")


@pytest.fixture
def said() -> Iterator[int]:
    fd = os.memfd_create("said")
    yield fd
    os.close(fd)


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "init"
    path.write_bytes(init.program(MACHINE))
    path.chmod(0o555)
    return str(path)


def run(program: str, said: int, *argv: str) -> tuple[int | None, int | None, str]:
    """-> what the agent makes of it: (exit code, signal, why not started)."""
    handed = [(os.POSIX_SPAWN_DUP2, said, init.SAID_FD)]
    pid = os.posix_spawn(program, [program, *argv], {"SEEN": "1"}, file_actions=handed)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return boxed.decode(code, None, said)


@pytest.mark.parametrize("code", [0, 1, 127, 128, 137, 143, 255])
def test_an_exit_code_is_an_exit_code(program: str, said: int, code: int) -> None:
    assert run(program, said, "/bin/sh", "-c", f"exit {code}") == (code, None, "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT])
def test_a_death_by_a_signal_is_named(program: str, said: int, number: signal.Signals) -> None:
    assert run(program, said, "/bin/sh", "-c", f"kill -{int(number)} $$") == (None, number, "")


@pytest.mark.parametrize(
    ("path", "why"), [("/nowhere", "No such file or directory"), ("/etc", "Permission denied")]
)
def test_what_cannot_be_started_has_its_reason(program: str, said: int, path: str, why: str) -> None:
    assert run(program, said, path)[2] == why


def test_the_job_has_its_arguments_its_environment_and_no_say(program: str, said: int) -> None:
    """What it could write on SAID_FD is closed for it."""
    check = f'test "$SEEN$0$1" = "1 a b" && test ! -e /proc/self/fd/{init.SAID_FD}'
    assert run(program, said, "/bin/sh", "-c", check, " a ", "b") == (0, None, "")


def test_it_reaps_orphans_and_ends_with_the_job(program: str, said: int) -> None:
    """It is given the orphans by being the first process; here the job leaves a child to nobody."""
    assert run(program, said, "/bin/sh", "-c", "/bin/true & exit 3") == (3, None, "")


@pytest.fixture
def contained() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # where another user may go
        path = Path(folder, "init")
        path.write_bytes(init.contained(MACHINE, seccomp.program(MACHINE)))
        for made in (path, path.parent):
            made.chmod(0o555)
        yield str(path)


def run_contained(program: str, said: int, script: str) -> tuple[int | None, int | None, str]:
    """As in a container: by a user without rights, who gains none."""
    argv = [SETPRIV, "--no-new-privs", *AS_NOBODY, program, "/bin/sh", "-c", script]
    handed = [(os.POSIX_SPAWN_DUP2, said, init.CONTAINED_SAID_FD)]
    pid = os.posix_spawn(SETPRIV, argv, {"PATH": os.defpath}, file_actions=handed)
    return boxed.decode(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), None, said)


def test_of_a_container_it_is_hidden_and_the_job_is_filtered(contained: str, said: int) -> None:
    seen = 'grep -q "Seccomp:.2" /proc/self/status && test ! -e /proc/self/fd/3'
    assert run_contained(contained, said, seen) == (0, None, "")
    hidden = "for name in environ mem fd/3 root; do test ! -r /proc/$PPID/$name || exit 1; done"
    assert run_contained(contained, said, hidden) == (0, None, "")
    assert run_contained(contained, said, "unshare --user true || exit 9") == (9, None, "")
    assert run_contained(contained, said, "kill -9 $$") == (None, signal.SIGKILL, "")


def test_without_our_init_a_code_above_128_is_read_as_a_signal() -> None:
    assert boxed.decode(137, None, -1) == (None, 9, "")
    assert boxed.decode(200, None, -1) == (200, None, "")
