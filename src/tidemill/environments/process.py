"""Running tools (uv, skopeo): their lines as they come, killed with their children on cancel and with this
server's death."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from tidemill.environments.shared import LogLine

# A tool must not outlive the server that asked for it: the kernel kills it when the parent dies. Done by a
# tiny launcher because running Python between fork and exec (preexec_fn) is not safe in a threaded server.
_LAUNCHER = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "os.getppid() == int(sys.argv[1]) or os._exit(137)\n"
    "os.execv(sys.argv[2], sys.argv[2:])"
)
_LONGEST_LINE = 1 << 20
_NOT_INHERITED = (
    "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "UV_PYTHON",
    "UV_PROJECT", "UV_WORKING_DIRECTORY", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_LINK_MODE",
)  # fmt: skip


@cache
def uv_program() -> str:
    """Path of the uv executable. It comes with the `uv` package."""
    from uv import find_uv_bin

    return find_uv_bin()


def uv_environment(managed: Path, cache_dir: Path | None) -> dict[str, str]:
    """The server's own environment (index and proxy settings included) without what points uv elsewhere."""
    env = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    env |= {"UV_PYTHON_INSTALL_DIR": str(managed), "NO_COLOR": "1", "UV_NO_PROGRESS": "1"}
    if cache_dir is not None:
        env["UV_CACHE_DIR"] = str(cache_dir)
    return env


async def run_uv(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: LogLine,
    held: Sequence[int] = (),
) -> tuple[int, str]:
    """Exit code and everything uv said; see `run`."""
    return await run([uv_program(), *arguments], env=env, cwd=cwd, log=log, held=held)


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: LogLine,
    held: Sequence[int] = (),
    stdin: bytes = b"",
) -> tuple[int, str]:
    """Exit code and everything the program at `argv[0]` said; each line also goes to `log` when it comes.

    `held`: descriptors (locks) that it keeps open, so that a lock lasts until its last process is gone.
    Cancelled: the whole process group is killed and reaped before CancelledError leaves.
    """
    heard, says = os.pipe()
    try:
        process = await _start(argv, env, cwd, held, says, asyncio.subprocess.STDOUT)
    except BaseException:
        os.close(heard)
        raise
    finally:
        os.close(says)
    assert process.stdin is not None
    try:
        process.stdin.write(stdin)
        process.stdin.close()
        lines = await listen(heard, log)
        return await process.wait(), "\n".join(lines)
    finally:
        await _end(process)


async def listen(heard: int, log: LogLine) -> list[str]:
    """The lines that are written into the pipe `heard`, until nobody can write there any more; each also goes
    to `log` when it comes. One of more than 1 MiB comes in pieces. The pipe is closed afterwards, whoever
    still writes there."""
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    pipe = os.fdopen(heard, "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    lines: list[str] = []
    try:
        while raw := await _piece(reader):
            line = raw.decode("utf-8", "replace").rstrip()
            lines.append(line)
            log(line)
    finally:
        transport.close()
    return lines


async def _piece(reader: asyncio.StreamReader) -> bytes:
    """A line, or the part of a long one that is there; nothing at the end."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await reader.readexactly(error.consumed)


async def capture(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> tuple[int, bytes, str]:
    """Exit code, standard output as it is, standard error. Cancelled: as `run`."""
    process = await _start(argv, env, cwd, (), asyncio.subprocess.PIPE, asyncio.subprocess.PIPE)
    try:
        output, errors = await process.communicate(b"")
        return process.returncode or 0, output, errors.decode("utf-8", "replace")
    finally:
        await _end(process)


async def _start(
    argv: Sequence[str], env: Mapping[str, str], cwd: Path, held: Sequence[int], stdout: int, stderr: int
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *argv,
        env=env, cwd=cwd, stdin=asyncio.subprocess.PIPE, stdout=stdout, stderr=stderr,
        start_new_session=True, pass_fds=tuple(held),
    )  # fmt: skip


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # Not wait(): it waits for the ends of pipes, and a pipe that nobody reads has none.
    await process.communicate()
