"""kill -9 at random instants: what was acknowledged is there, and the file is sound."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

WRITER = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from rowmakers import job
from tidemill.store import sqlite as module
from tidemill.store.sqlite import open_sqlite
module.CHECKPOINT_BYTES = 1 << 16  # kills fall into checkpoints too
module.TRUNCATE_BYTES = 1 << 19

async def writer(store, first):
    for number in range(first, first + 10**6):
        await store.write(lambda tx: tx.insert(job(number, spec=b"x" * 300)))
        os.write(1, b"%d\\n" % number)

async def main():
    store = open_sqlite(Path(sys.argv[1]))
    start = int(sys.argv[3])
    await asyncio.gather(*(writer(store, start + n * 10**7) for n in range(4)))

asyncio.run(main())
"""


@pytest.mark.kill
def test_acknowledged_rows_survive_kills(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    here = str(Path(__file__).parent)
    chance = random.Random(7)
    acknowledged: set[int] = set()
    for turn in range(10):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), here, str(turn * 10**9)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        wanted = chance.randint(1, 100)  # rows, however long the disk takes for them; then a moment more
        told = b"".join(child.stdout.readline() for _ in range(wanted))
        assert told.count(b"\n") == wanted
        time.sleep(chance.uniform(0.0, 0.03))
        os.kill(child.pid, signal.SIGKILL)
        lines = (told + child.stdout.read()).split(b"\n")
        child.wait(60)
        child.stdout.close()
        # The last piece may be cut off; a whole line was acknowledged.
        acknowledged |= {int(line) for line in lines[:-1]}
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            found = {int(row[0], 16) for row in db.execute("SELECT uid FROM resources")}
        assert acknowledged <= found
    assert len(acknowledged) > 200
