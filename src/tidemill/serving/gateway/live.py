"""The route table as it is served: the same endpoints, with what is under way at each instance."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tidemill.domain.serving.routes import Backend, Endpoint, Table, Target
from tidemill.domain.serving.routing import Deck, Shuffle
from tidemill.serving.gateway.metrics import Metrics

if TYPE_CHECKING:
    from tidemill.serving.gateway.exchange import Exchange
    from tidemill.serving.gateway.upstream import Upstream


class Instance:
    """`idle`: connections that wait for a request, the newest last; `pending`: requests that wait for a
    connection, for which `dialing` are being made. `removed`: it gets no new requests."""

    __slots__ = (
        "deployment",
        "dialing",
        "down_until",
        "failures",
        "idle",
        "in_flight",
        "pending",
        "removed",
        "target",
    )

    def __init__(self, target: Target, deployment: Deployment) -> None:
        self.target = target
        self.deployment = deployment
        self.idle: list[Upstream] = []
        self.pending: deque[Exchange] = deque()
        self.dialing = 0
        self.in_flight = 0
        self.down_until = 0.0
        self.failures = 0
        self.removed = False

    def remove(self) -> None:
        self.removed = True
        for upstream in self.idle[:]:
            upstream.close()


class Deployment:
    """`waiting`: requests for which no instance is free. `score_path`: what its instances call /score, where
    that is something else."""

    __slots__ = (
        "backend",
        "header",
        "instances",
        "label",
        "metrics",
        "name",
        "score_path",
        "turn",
        "uid",
        "waiting",
    )

    def __init__(self, backend: Backend) -> None:
        self.uid = backend.uid
        self.metrics = Metrics()
        self.waiting: deque[Exchange] = deque()
        self.instances: list[Instance] = []
        self.turn = 0
        self.take(backend)

    def take(self, backend: Backend) -> None:
        self.backend = backend
        self.name = backend.name
        self.label = backend.name.encode()
        self.score_path = None if backend.score_path == "/score" else backend.score_path.encode()
        self.header = f"azureml-model-deployment: {backend.name}\r\n".encode()
        known = {one.target: one for one in self.instances}
        kept = [known.pop(target, None) or Instance(target, self) for target in backend.instances]
        for gone in known.values():
            gone.remove()
        self.instances = kept


class LiveEndpoint:
    """`allowance`: requests that its rate still allows, counted at `counted_at`."""

    __slots__ = (
        "allowance",
        "by_name",
        "counted_at",
        "dealt",
        "deck",
        "digests",
        "mirror",
        "mirrored",
        "record",
    )

    def __init__(
        self,
        record: Endpoint,
        deployments: dict[str, Deployment],
        before: LiveEndpoint | None,
        shuffle: Shuffle,
    ) -> None:
        self.record = record
        self.allowance = before.allowance if before is not None else max(record.rate, 1.0)
        self.counted_at = before.counted_at if before is not None else 0.0
        self.by_name = {one.name.lower().encode(): one for one in deployments.values()}
        names = {one.name for one in deployments.values()}
        self.deck = _deck(record.traffic, names, before and before.deck, shuffle)
        self.mirror = _deck(record.mirror, names, before and before.mirror, shuffle)
        self.digests = tuple(bytes.fromhex(one) for one in record.digests)

        self.dealt = self._of(self.deck)
        self.mirrored = self._of(self.mirror)

    def _of(self, deck: Deck | None) -> list[Deployment]:
        """The deployments that the cards of a deck mean."""
        return [self.by_name[name.lower().encode()] for name, _ in deck.shares] if deck is not None else []


class Live:
    """`endpoints`: by path, and by its lower case, as bytes."""

    def __init__(self, shuffle: Shuffle) -> None:
        self._shuffle = shuffle
        self._leaving: list[Instance] = []
        self._deployments: dict[str, Deployment] = {}
        self.version = 0
        self.endpoints: dict[bytes, LiveEndpoint] = {}

    @property
    def deployments(self) -> dict[str, Deployment]:
        """By uid."""
        return self._deployments

    def instances(self) -> Iterator[Instance]:
        """Those of the table, and those that were taken out of it and still have requests."""
        self._leaving = [one for one in self._leaving if one.in_flight]
        for deployment in self._deployments.values():
            yield from deployment.instances
        yield from self._leaving

    def apply(self, table: Table) -> list[Deployment]:
        """-> deployments that are gone."""
        before = {one.record.uid: one for one in self.endpoints.values()}
        held = list(self.instances())
        old, self._deployments = self._deployments, {}
        self.endpoints = {}
        for record in table.endpoints:
            mine: dict[str, Deployment] = {}
            for backend in record.deployments:
                one = old.pop(backend.uid, None)
                if one is None:
                    one = Deployment(backend)
                else:
                    one.take(backend)
                mine[backend.uid] = self._deployments[backend.uid] = one
            live = LiveEndpoint(record, mine, before.get(record.uid), self._shuffle)
            path = record.path.encode()
            self.endpoints[path] = self.endpoints[path.lower()] = live
        for gone in old.values():
            for instance in gone.instances:
                instance.remove()
        self._leaving = [one for one in held if one.removed and one.in_flight]
        self.version = table.version
        return list(old.values())


def _deck(
    shares: tuple[tuple[str, int], ...], names: set[str], before: Deck | None, shuffle: Shuffle
) -> Deck | None:
    """The same deck goes on where the shares are the same. None where nobody has a share."""
    known = tuple((name, percent) for name, percent in shares if percent > 0 and name in names)
    if not known:
        return None
    return before if before is not None and before.shares == known else Deck(known, shuffle)
