"""What one scheduling decision costs as the queue grows: `python -m benchmarks.scheduler [cycles]`.

A cycle is one job's end and the next one's start: apply(JobReleased), decide() -> Assign, apply(NodeBusy).
A submit is apply(JobQueued), decide() -> Wait. CPU time of this process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks.common import Table
from tidemill.domain.model import NodeState, Scope, Vector
from tidemill.domain.quota import Key, Quotas
from tidemill.domain.scheduling import types as t
from tidemill.domain.scheduling.pool import PoolState

SECOND = 1_000_000
GIB = 1 << 30
WS = Scope("sub", "rg", "main")
NODE = Vector(2000, 4 * GIB)
AT_QUOTA: dict[Key, int] = {("team", f"team{n}", "nodes"): 1 for n in range(3)}


def main(argv: Sequence[str] | None = None) -> Table:
    given = sys.argv[1:] if argv is None else argv
    cycles = int(given[0]) if given else 2_000
    table = Table(
        "Scheduling decisions, CPU microseconds; floor: the shortest queue's cycle",
        ("case", "queued", "figure (cycle)", "floor", "ratio", "submit", "explain"),
    )
    for name, nodes, teams, sizes, mode, limits in (
        ("4 nodes, one team", 4, 1, (1,), "elastic", {}),
        ("4 nodes, 8 teams, 3 priorities", 4, 8, (1,), "elastic", {}),
        ("64 nodes, one team", 64, 1, (1,), "elastic", {}),
        ("16 nodes, 4 teams, gangs of 1..4", 16, 4, (1, 2, 3, 4), "elastic", {}),
        ("4 nodes, one team, strict", 4, 1, (1,), "strict", {}),
        ("8 nodes, 4 teams, 3 of them at their quota", 8, 4, (1,), "elastic", AT_QUOTA),
    ):
        floor = 0.0
        for queued in (100, 1_000, 10_000, 100_000):
            cycle, submit, explain = measure(nodes, teams, sizes, mode, queued, cycles, limits)
            floor = floor or cycle
            table.add(
                name,
                f"{queued:,}",
                f"{cycle:.1f}",
                f"{floor:.1f}",
                cycle / floor,
                f"{submit:.1f}",
                f"{explain:.1f}",
            )
    table.show()
    return table


def measure(
    nodes: int,
    teams: int,
    sizes: tuple[int, ...],
    mode: str,
    queued: int,
    cycles: int,
    limits: Mapping[Key, int],
) -> tuple[float, float, float]:
    """-> (a cycle, a submit, an explanation), microseconds."""
    pool = PoolState(t.Host(Vector(nodes * 2000, nodes * 4 * GIB), (), mode))
    pool.apply(t.QuotasSet(Quotas(limits)))
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
    return cycle_us, submit_us, explain_us


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
    main()
