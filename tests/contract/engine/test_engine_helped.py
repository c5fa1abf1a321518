"""The contract, held by the engine of a server that gave root up: the suite again, in a process that does.

What needs root to look at the outcome (other users' processes, an agent that is killed) is left out here;
tests/integration/test_root_given_up.py does that from outside.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from engine_support import needs_root

from tidemill.server import helper_process, privileges

HERE = Path(__file__).parent
_DROPPED = """
import os, sys
from pathlib import Path
from tidemill.server import privileges
home = Path(sys.argv[1])
assert privileges.drop(home).helped
os.environ["TIDEMILL_TEST_HELPED"] = str(home)
import pytest
options = ["-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", f"--basetemp={home}/db/tmp"]
sys.exit(pytest.main([*options, *sys.argv[2:]]))
"""


@needs_root
@pytest.mark.timeout(600)
def test_the_suite_in_a_process_without_root(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    why = privileges.why_not(home)
    if why:
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
    env = {**os.environ, "PATH": f"{HERE.parents[2]}:{os.environ['PATH']}"}  # what PATH names is seen
    suite = [str(HERE / "test_engine_any.py"), str(HERE / "test_engine_inside.py")]
    by_root = "plain or sees_what or it_ends_with"  # these look at other users' processes
    argv = [sys.executable, "-B", "-c", _DROPPED, str(home), *suite, "-k", f"not (fake or {by_root})"]
    try:
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=560, cwd=HERE.parents[2])
    finally:
        helper_process.stop(home)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 20, done.stdout[-500:]
    assert [path.name for path in (home / "nodes").iterdir()] == []
