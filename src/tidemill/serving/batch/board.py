"""Which batch is whose: pure, no clock and no I/O. What is done is never handed out again; what a worker that
is gone had is handed out first, and costs no try."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from .spec import Spec

MOST_FAILURES = 5  # kept with their tracebacks, for the message


@dataclass
class Failure:
    """A batch that failed for good. `items`: names of its first items."""

    index: int
    items: list[str]
    error: str
    tries: int


@dataclass
class Board:
    """`tries`: failed ones of a batch. `taken`: batch -> worker. `item_errors`: items without a result, of
    finished and failed batches."""

    total: int
    spec: Spec
    pending: deque[int] = field(default_factory=deque)
    tries: dict[int, int] = field(default_factory=dict)
    taken: dict[int, str] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    items: int = 0
    item_errors: int = 0

    @staticmethod
    def of(total: int, spec: Spec) -> Board:
        return Board(total, spec, deque(range(total)))

    @property
    def ended(self) -> bool:
        return len(self.done) + len(self.failed) == self.total

    def restore(self, records: Iterable[dict[str, object]]) -> None:
        """What earlier attempts have finished, or failed for good."""
        found = {int(str(record["i"])): record for record in records}
        self.pending = deque(index for index in range(self.total) if index not in found)
        for index, record in found.items():
            names = record.get("names") or []
            self._end(
                index,
                int(str(record["items"])),
                int(str(record["returned"])),
                str(record.get("error") or ""),
                list(names) if isinstance(names, list) else [],
            )

    def take(self, worker: str) -> int | None:
        """None: none is left to be handed out now."""
        if not self.pending:
            return None
        index = self.pending.popleft()
        self.taken[index] = worker
        return index

    def finish(self, index: int, items: int, returned: int) -> bool:
        """-> whether it counts: one that was finished meanwhile does not."""
        self.taken.pop(index, None)
        if index in self.done or index in self.failed:
            return False
        self._end(index, items, returned, "", [])
        return True

    def fail(self, index: int, items: int, error: str, names: list[str]) -> bool:
        """A failed try. -> whether it was the last one."""
        self.taken.pop(index, None)
        if index in self.done or index in self.failed:
            return False
        self.tries[index] = self.tries.get(index, 0) + 1
        if self.tries[index] <= self.spec.retries:
            self.pending.append(index)
            return False
        self._end(index, items, 0, error, names)
        return True

    def lose(self, worker: str) -> list[int]:
        """The worker is gone: what it had is first in the queue again."""
        found = sorted(index for index, holder in self.taken.items() if holder == worker)
        for index in reversed(found):
            del self.taken[index]
            self.pending.appendleft(index)
        return found

    def _end(self, index: int, items: int, returned: int, error: str, names: list[str]) -> None:
        self.items += items
        self.item_errors += max(items - returned, 0)
        if not error:
            self.done.add(index)
            return
        self.failed.add(index)
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(Failure(index, names, error, self.tries.get(index, 0)))

    def over(self) -> str:
        """Which threshold is passed, as a sentence; "" for none."""
        spec, failed = self.spec, len(self.failed)
        if 0 <= spec.batch_errors < failed:
            return (
                f"{failed} of {self.total} mini-batches failed, and mini_batch_error_threshold allows "
                f"{spec.batch_errors}."
            )
        if 0 <= spec.item_errors < self.item_errors:
            return (
                f"{self.item_errors} items have no result, and error_threshold allows {spec.item_errors}. An "
                "item counts that is in a failed mini-batch, or for which run() returned nothing."
            )
        if spec.failed_percent is not None and failed * 100.0 > spec.failed_percent * self.total:
            return (
                f"{failed} of {self.total} mini-batches failed, and allowed_failed_percent allows "
                f"{spec.failed_percent:g} %."
            )
        return ""
