"""`make demo`: the main job from nothing, by the commands a user would type.

Starts Tidemill in a scratch home (`.demo`, or $TIDEMILL_DEMO_HOME) on free ports, trains on the digits, shows
what came of it. Can be run again at once; the server stays up until `tidemill --home .demo down`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "train-digits"
HOME = Path(os.environ.get("TIDEMILL_DEMO_HOME") or ROOT / ".demo")
TIDEMILL = str(Path(sys.executable).with_name("tidemill"))
IDLE_SECONDS = 5


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--sdk", metavar="PYTHON", help="run the example through azure-ai-ml with this interpreter"
    )
    arguments = parser.parse_args()
    started = time.monotonic()
    start_server()
    code = run_sdk(arguments.sdk) if arguments.sdk else run_cli()
    if code == 0:
        print(f"\nDone in {time.monotonic() - started:.1f} s.")
    return code


def start_server() -> None:
    running = subprocess.run([TIDEMILL, "--home", str(HOME), "status"], capture_output=True, check=False)
    if running.returncode != 0:
        call("up", "--detach", "--https-port", "0", "--http-port", "0", "--data-port", "0")


def run_cli() -> int:
    call(
        "compute",
        "create",
        "-f",
        str(EXAMPLE / "compute.yml"),
        "--idle-time-before-scale-down",
        str(IDLE_SECONDS),
    )
    name = f"digits-{time.strftime('%Y%m%d-%H%M%S')}"
    code = call("job", "create", "-f", str(EXAMPLE / "job.yml"), "--name", name, "--stream", check=False)
    if code:
        return code
    call("model", "list")
    print(f"\nThe cluster closes its node after {IDLE_SECONDS} s without work:")
    wait_until_closed()
    call("compute", "show", "--name", "cpu-cluster")
    job = json.loads(call_for("job", "show", "--name", name, "--output", "json"))
    where(job["page"])
    return 0


def run_sdk(python: str) -> int:
    script = EXAMPLE / "submit_sdk.py"
    print(f'\n$ eval "$(tidemill --home {short(HOME)} env)" && python {short(script)}', flush=True)
    given = json.loads(call_for("env", "--format", "json"))
    code = subprocess.run([python, str(script)], env={**os.environ, **given}, check=False).returncode
    if code == 0:
        where("")
    return code


def wait_until_closed(limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        nodes = json.loads(call_for("compute", "list-nodes", "--name", "cpu-cluster", "--output", "json"))
        if not nodes:
            return
        time.sleep(0.25)
    raise SystemExit(f"cpu-cluster still has nodes after {limit_s:.0f} s")


def where(page: str) -> None:
    tidemill = f"{short(Path(TIDEMILL))} --home {short(HOME)}"
    print("\nWhere everything is")
    if page:
        print(f"  the job's page     {page}")
    print(f"  home               {HOME}")
    print(f'  the Azure SDK      eval "$({tidemill} env)" && python examples/train-digits/submit_sdk.py')
    print(f"  the portal         {tidemill} portal")
    print(f"  all jobs           {tidemill} job list")
    print(f"  stop the server    {tidemill} down")


def short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def call(*words: str, check: bool = True) -> int:
    """Shows a command as a user types it, and runs it."""
    shown = [short(Path(word)) if word.startswith(str(ROOT)) else word for word in words]
    print(f"\n$ tidemill --home {short(HOME)} {shlex.join(shown)}", flush=True)
    code = subprocess.run([TIDEMILL, "--home", str(HOME), *words], check=False).returncode
    if check and code:
        raise SystemExit(code)
    return code


def call_for(*words: str) -> str:
    return subprocess.run(
        [TIDEMILL, "--home", str(HOME), *words], capture_output=True, text=True, check=True
    ).stdout


if __name__ == "__main__":
    sys.exit(main())
