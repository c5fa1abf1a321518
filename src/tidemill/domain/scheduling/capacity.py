"""The host's room: who holds it, what is free, how nodes share it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tidemill.domain.model import Vector
from tidemill.domain.scheduling.types import ClusterSpec, Host

UNLIMITED = 1 << 62


def elastic_grants(host: Host, nodes: Mapping[str, Vector]) -> dict[str, Vector]:
    """What each node gets when all share the host: k nodes of size S get min(S, host / k); a node that needs
    less leaves the rest to the others. GPUs are whole: each node has its own. Keys are kept."""
    cpus = _level({key: size.cpu_milli for key, size in nodes.items()}, host.total.cpu_milli)
    memory = _level({key: size.memory for key, size in nodes.items()}, host.total.memory)
    return {key: Vector(cpus[key], memory[key], size.gpus) for key, size in nodes.items()}


def _level(asked: Mapping[str, int], total: int) -> dict[str, int]:
    """Max-min fair division of a whole number: the smallest are served in full, the rest get equal parts."""
    left, waiting = total, len(asked)
    for amount in sorted(asked.values()):
        if amount > left // waiting:
            break
        left -= amount
        waiting -= 1
    most = left // waiting if waiting else total
    return {key: min(amount, most) for key, amount in asked.items()}


def limits(host: Host, cluster: ClusterSpec) -> bool:
    """Whether the host can be too full for a node of this cluster: then it competes with other clusters."""
    return host.strict or cluster.node.gpus > 0


class Room:
    """What is held of the host, kept up to date with every node that comes and goes."""

    __slots__ = ("cpu_milli", "gpu_ids", "host", "memory")

    def __init__(self, host: Host) -> None:
        self.host = host
        self.cpu_milli = 0
        self.memory = 0
        self.gpu_ids: set[str] = set()

    def hold(self, granted: Vector, gpu_ids: Iterable[str]) -> None:
        self.cpu_milli += granted.cpu_milli
        self.memory += granted.memory
        self.gpu_ids.update(gpu_ids)

    def give_back(self, granted: Vector, gpu_ids: Iterable[str]) -> None:
        self.cpu_milli -= granted.cpu_milli
        self.memory -= granted.memory
        self.gpu_ids.difference_update(gpu_ids)

    def free_gpu_ids(self) -> list[str]:
        return [gpu for gpu in self.host.gpu_ids if gpu not in self.gpu_ids]

    def free(self) -> Vector:
        gpus = len(self.free_gpu_ids())
        if not self.host.strict:
            return Vector(UNLIMITED, UNLIMITED, gpus)
        total = self.host.total
        return Vector(total.cpu_milli - self.cpu_milli, total.memory - self.memory, gpus)


class Budget:
    """The room during one decision: `take` opens, `claim` keeps room for a job that goes first but does not
    fit yet, `expect` is room that nodes being closed will give back."""

    __slots__ = ("claimed", "coming", "free")

    def __init__(self, free: Vector, coming: Vector) -> None:
        self.free = [free.cpu_milli, free.memory, free.gpus]
        self.coming = [coming.cpu_milli, coming.memory, coming.gpus]
        self.claimed = [0, 0, 0]

    def fits(self, count: int, size: Vector) -> bool:
        asked = (size.cpu_milli, size.memory, size.gpus)
        return all(
            a == 0 or count * a <= free - kept
            for a, free, kept in zip(asked, self.free, self.claimed, strict=True)
        )

    def take(self, count: int, size: Vector) -> None:
        for index, asked in enumerate((size.cpu_milli, size.memory, size.gpus)):
            self.free[index] -= count * asked

    def claim(self, count: int, size: Vector) -> None:
        for index, asked in enumerate((size.cpu_milli, size.memory, size.gpus)):
            self.claimed[index] += count * asked

    def expect(self, granted: Vector) -> None:
        for index, given in enumerate((granted.cpu_milli, granted.memory, granted.gpus)):
            self.coming[index] += given

    def short_of(self, granted: Vector) -> bool:
        """Whether closing a node that holds `granted` brings what is claimed nearer."""
        return any(
            given > 0 and kept > 0 and kept > free + coming
            for given, kept, free, coming in zip(
                (granted.cpu_milli, granted.memory, granted.gpus),
                self.claimed,
                self.free,
                self.coming,
                strict=True,
            )
        )
