"""What the sandbox costs a job: no-op jobs with isolation full and plain, side by side in one run.

    python -m benchmarks.sandbox [--jobs 1000] [--single 100] [--nodes 4]

Both servers are up throughout and take turns, so that what else the machine does meets both. Floor: bare
bubblewrap around /bin/true, as many at once as there are nodes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time

from benchmarks.common import Client, Table, running_server
from benchmarks.jobs import many, open_cluster, single

ROUNDS = 4
_BARE = (
    *("--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin"),
    *("--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
    *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "/bin/true"),
)
# The namespaces of a job and one mount: a bubblewrap that does less is no sandbox.
_LEAST = (
    *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
    *("--as-pid-1", "--die-with-parent", "--bind", "/", "/", "/bin/true"),
)


def bare_rate(program: str, count: int, at_once: int, options: tuple[str, ...] = _BARE) -> float:
    """bubblewraps a second."""
    started, running, left = time.perf_counter(), 0, count
    while left or running:
        while left and running < at_once:
            os.posix_spawn(program, [program, *options], {})
            running, left = running + 1, left - 1
        _, status = os.wait()
        if status:
            raise SystemExit(f"bare bubblewrap ended with {os.waitstatus_to_exitcode(status)}")
        running -= 1
    return count / (time.perf_counter() - started)


def main(argv: list[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(prog="benchmarks sandbox")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--single", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=4)
    arguments = parser.parse_args(argv)
    program = shutil.which("bwrap")
    if program is None or os.geteuid() != 0:
        raise SystemExit("this compares isolation full with plain: it needs root and bubblewrap")
    table = Table("The sandbox", ("what", "figure", "floor", "ratio", "target", "met"))
    with running_server(isolation="full") as strict, running_server(isolation="plain") as loose:
        clients = {"full": Client(strict), "plain": Client(loose)}
        for client in clients.values():
            single(client, 5)
        taken: dict[str, list[float]] = {"full": [], "plain": []}
        for _ in range(ROUNDS):
            for tier, client in clients.items():
                taken[tier] += single(client, arguments.single // ROUNDS, f"one-{len(taken[tier])}")
        full, plain = (statistics.median(taken[tier]) for tier in ("full", "plain"))
        table.add(
            "one job more than plain, p50",
            f"{(full - plain) * 1e3:.1f} ms",
            f"{plain * 1e3:.1f} ms",
            full / plain,
            "<= 15 ms",
            full - plain <= 0.015,
        )
        computes = {tier: open_cluster(client, arguments.nodes) for tier, client in clients.items()}
        each = arguments.jobs // ROUNDS
        seconds = {"full": 0.0, "plain": 0.0}
        bare: list[float] = []
        least: list[float] = []
        for turn in range(ROUNDS):
            bare.append(bare_rate(program, each, arguments.nodes))
            least.append(bare_rate(program, each, arguments.nodes, _LEAST))
            for tier, client in clients.items():
                seconds[tier] += many(client, each, f"many-{turn}", computes[tier])[1]
        rates = {tier: each * ROUNDS / spent for tier, spent in seconds.items()}
        floor = min(statistics.mean(bare), rates["plain"])
        table.add(
            f"{each * ROUNDS} sandboxed no-ops",
            f"{rates['full']:.0f} jobs/s",
            f"{floor:.0f}/s (bare {statistics.mean(bare):.0f}, plain {rates['plain']:.0f})",
            rates["full"] / floor,
            ">= 0.85",
            rates["full"] >= 0.85 * floor,
        )
        # Where every core is busy already, a job costs what both cost: no more can be had than this.
        both = 1 / (1 / statistics.mean(bare) + 1 / rates["plain"])
        table.add(
            "  against both in a row",
            f"{rates['full']:.0f} jobs/s",
            f"{both:.0f}/s",
            rates["full"] / both,
            None,
            None,
        )
        # What bubblewrap leaves of the target where all cores are busy: a plain job and its least work.
        in_a_row = 1 / (1 / statistics.mean(least) + 1 / rates["plain"])
        table.add(
            "  plain and the least bubblewrap in a row",
            f"{in_a_row:.0f} jobs/s",
            f"{floor:.0f}/s (least bubblewrap {statistics.mean(least):.0f})",
            in_a_row / floor,
            None,
            None,
        )
    table.show()
    return table


if __name__ == "__main__":
    main()
