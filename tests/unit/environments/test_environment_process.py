"""Tools whose output is not heard to its end: they are gone at once, whoever of theirs still prints."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tidemill.environments.process import capture, run

BOUND_S = 60
# Another session's, which is not killed with the tool's group; it says who it is once it is that.
OTHER = "setsid sh -c 'echo $$; exec {}' & wait"
FLOOD = OTHER.format("dd if=/dev/zero bs=1M count=64 2>/dev/null")


async def test_what_a_tool_says_and_how_it_ends(tmp_path: Path):
    said: list[str] = []
    argv = ["/bin/sh", "-c", "read word; echo $word; echo so >&2; exit 3"]
    found = await run(argv, env={}, cwd=tmp_path, log=said.append, stdin=b"given\n")
    assert found == (3, "given\nso")
    assert said == ["given", "so"]
    argv = ["/bin/sh", "-c", "echo one; echo two >&2; exit 4"]
    assert await capture(argv, env={}, cwd=tmp_path) == (4, b"one\n", "two\n")


async def test_a_long_line_comes_in_pieces(tmp_path: Path):
    said: list[str] = []
    code = "head -c 3500000 /dev/zero | tr '\\0' x; echo; echo two; printf three"
    code, output = await run(["/bin/sh", "-c", code], env={}, cwd=tmp_path, log=said.append)
    assert (code, output.split("\n")) == (0, said)
    *pieces, two, three = said
    assert "".join(pieces) == "x" * 3_500_000
    assert max(map(len, pieces)) <= 2 << 20
    assert (two, three) == ("two", "three")


@pytest.mark.parametrize("most", [1, 3])
async def test_a_log_that_takes_no_more(tmp_path: Path, most: int):
    """A line without an end fills it, too."""
    heard: list[str] = []

    def full(piece: str) -> None:
        heard.append(piece)
        if len(heard) == most:
            raise RuntimeError("full")

    async with asyncio.timeout(BOUND_S):
        with pytest.raises(RuntimeError, match="full"):
            await run(["/bin/sh", "-c", FLOOD], env={}, cwd=tmp_path, log=full)


async def test_a_caller_who_goes(tmp_path: Path):
    """Also while somebody else holds the pipe, and says nothing."""
    heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    argv = ["/bin/sh", "-c", OTHER.format("sleep 600")]
    work = asyncio.ensure_future(run(argv, env={}, cwd=tmp_path, log=heard.set_result))
    other = int(await asyncio.wait_for(heard, BOUND_S))
    try:
        work.cancel()
        done, _ = await asyncio.wait({work}, timeout=BOUND_S)
    finally:
        os.kill(other, signal.SIGKILL)
    assert done
    assert work.cancelled()
