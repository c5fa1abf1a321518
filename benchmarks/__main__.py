"""Runs the benchmarks: `python -m benchmarks [name…]`, all of them without names.

Each prints a table: figure, floor measured in the same run, ratio, target, whether it is met. What a
benchmark cannot do without (npm for the blobs' comparison) is said and the others go on. Exit code 1 when one
failed; a target that is missed on a busy machine is no failure, and is counted at the end.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback

NAMES = (
    "jobs",
    "pipelines",
    "parallel",
    "sandbox",
    "neighbours",
    "sweeps",
    "nodes",
    "endpoints",
    "gateway",
    "queue_length",
    "api",
    "idle",
    "images",
    "upload_latency",
    "blob",
    "scheduler",
    "access",
    "tracking",
    "serving",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES))
    chosen: list[str] = parser.parse_args().names or list(NAMES)
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(NAMES)}")
    missed, failed = 0, 0
    for name in chosen:
        load = os.getloadavg()[0]
        print(f"\n== {name} (load {load:.1f} on {os.cpu_count()} cores)", flush=True)
        try:
            missed += importlib.import_module(f"benchmarks.{name}").main([]).missed
        except (Exception, SystemExit) as error:
            failed += 1
            if isinstance(error, SystemExit):
                print(f"{name}: {error}", file=sys.stderr)
            else:
                traceback.print_exception(error)
    print(f"\n{missed} targets missed, {failed} benchmarks failed.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
