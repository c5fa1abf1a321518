"""What one scheduling decision costs as the queue grows: `python benchmarks/scheduler.py [cycles]`.

A cycle is one job's end and the next one's start: apply(JobReleased), decide() -> Assign, apply(NodeBusy).
A submit is apply(JobQueued), decide() -> Wait. CPU time of this process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

from tidemill.domain.model import NodeState, Scope, Vector
from tidemill.domain.scheduling import types as t
from tidemill.domain.scheduling.pool import PoolState

SECOND = 1_000_000
GIB = 1 << 30
WS = Scope("sub", "rg", "main")
NODE = Vector(2000, 4 * GIB)


def main(cycles: int = 5_000) -> None:
    print(f"{'case':<34}{'queued':>8}{'cycle us':>10}{'submit us':>11}{'explain us':>12}")
    for name, nodes, teams, sizes, mode in (
        ("4 nodes, one team", 4, 1, (1,), "elastic"),
        ("4 nodes, 8 teams, 3 priorities", 4, 8, (1,), "elastic"),
        ("64 nodes, one team", 64, 1, (1,), "elastic"),
        ("16 nodes, 4 teams, gangs of 1..4", 16, 4, (1, 2, 3, 4), "elastic"),
        ("4 nodes, one team, strict", 4, 1, (1,), "strict"),
    ):
        for queued in (100, 1_000, 10_000, 100_000):
            show(name, nodes, teams, sizes, mode, queued, cycles)


def show(
    name: str, nodes: int, teams: int, sizes: tuple[int, ...], mode: str, queued: int, cycles: int
) -> None:
    pool = PoolState(t.Host(Vector(nodes * 2000, nodes * 4 * GIB), (), mode))
    pool.apply(t.ClusterSet(t.ClusterSpec("c", "cpu", WS, "S", NODE, nodes, nodes, 120 * SECOND)))
    jobs = make_jobs(teams, sizes)
    now = 0
    for index, opened in enumerate([d for d in pool.decide(now) if isinstance(d, t.OpenNode)]):
        node = t.NodeView(f"n{index}", "c", NodeState.OPENING, opened.granted)
        pool.apply(t.NodeOpened(node, now))
        pool.apply(t.NodeReady(node.id, now))
    for _ in range(queued):
        pool.apply(t.JobQueued(next(jobs), now))
    running = [d for d in pool.decide(now) if isinstance(d, t.Assign)]
    last, spent_cycle, spent_submit = now, 0.0, 0.0
    for _ in range(cycles):
        last += 1_000
        ended = running.pop(0)
        before = time.process_time()
        pool.apply(t.JobReleased(ended.job_uid, last))
        for decision in pool.decide(last):
            if isinstance(decision, t.Assign):
                running.append(decision)
                for node_id in decision.node_ids:
                    pool.apply(t.NodeBusy(node_id, decision.job_uid, last))
        between = time.process_time()
        pool.apply(t.JobQueued(next(jobs), last))  # the queue stays as long as it is
        running += [d for d in pool.decide(last) if isinstance(d, t.Assign)]
        spent_submit += time.process_time() - between
        spent_cycle += between - before
    cycle_us, submit_us = spent_cycle / cycles * 1e6, spent_submit / cycles * 1e6
    waiting = next(reversed(list(pool._track.clusters["c"].queue.jobs)))
    explain_us = clock(lambda: pool.explain(waiting, last), min(1_000, cycles))
    print(f"{name:<34}{queued:>8}{cycle_us:>10.1f}{submit_us:>11.1f}{explain_us:>12.1f}")


def make_jobs(teams: int, sizes: tuple[int, ...]) -> Iterator[t.JobRequest]:
    number = 0
    while True:
        yield t.JobRequest(
            f"j{number:07d}",
            f"job-{number}",
            WS,
            f"team{number % teams}",
            "c",
            sizes[number % len(sizes)],
            (0, 0, 1)[number % 3] if teams > 1 else 0,
            number,
            None if number % 2 else 60 * SECOND,
        )
        number += 1


def clock(call: Callable[[], object], times: int) -> float:
    """CPU microseconds per call, the best of three rounds."""
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        for _ in range(times):
            call()
        best = min(best, (time.process_time() - started) / times * 1e6)
    return best


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000)
