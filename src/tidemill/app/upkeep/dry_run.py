"""Services that change nothing: whoever is given them goes through the same doors, and nothing stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn, TypeVar, cast

from tidemill.app.services import Services
from tidemill.data.blobmodel import BlobInfo, ContainerInfo, ListPage
from tidemill.data.blobstore import BlobStore
from tidemill.domain.model import Touched
from tidemill.domain.plan import Place
from tidemill.store.api import Read, Store, Tx

T = TypeVar("T")


Coming = Mapping[Place, bytes]
"""Files that would be uploaded first; their bytes where these are read at a submit."""


def dry(s: Services, coming: Coming) -> Services:
    return replace(s, store=DryStore(s.store), blobs=cast(BlobStore, _Coming(s.blobs, coming)))


class _Undone(Exception):
    """Ends a transaction that is to leave nothing. `args[0]`: what it gave."""


class DryStore:
    """Reads and writes in transactions that are undone, each after what was written before it: a write sees
    those before it, and nobody else sees any. Writes can be run again (`store.api`)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._written: list[Callable[[Tx], Any]] = []

    async def write(self, fn: Callable[[Tx], T]) -> T:
        result = await self._run(fn)
        self._written.append(fn)
        return result

    async def read(self, fn: Callable[[Read], T]) -> T:
        return await self._run(fn)

    def on_commit(self, listener: Callable[[frozenset[Touched]], None]) -> None:
        """There is none."""

    async def close(self) -> None:
        """It has nothing of its own."""

    async def _run(self, fn: Callable[[Tx], T]) -> T:
        def run(tx: Tx) -> NoReturn:
            for before in self._written:
                before(tx)
            raise _Undone(fn(tx))

        try:
            await self._store.write(run)
        except _Undone as undone:
            return undone.args[0]
        raise AssertionError("a transaction that was to be undone was committed")


class _Coming:
    """The blobs that are there and those that would be: as far as they are looked at at a submit."""

    def __init__(self, blobs: BlobStore, coming: Coming) -> None:
        self._blobs, self._coming = blobs, coming

    def container(self, account: str, container: str) -> ContainerInfo | None:
        return self._blobs.container(account, container)

    def containers(self, account: str) -> list[ContainerInfo]:
        return self._blobs.containers(account)

    def get(self, account: str, container: str, name: str) -> BlobInfo | None:
        if Place(account, container, name) in self._coming:
            return _blob(account, container, name)
        return self._blobs.get(account, container, name)

    def read_bytes(self, account: str, container: str, name: str) -> bytes | None:
        coming = self._coming.get(Place(account, container, name))
        return self._blobs.read_bytes(account, container, name) if coming is None else coming

    def list(
        self,
        account: str,
        container: str,
        prefix: str = "",
        delimiter: str = "",
        marker: str = "",
        limit: int = 5000,
    ) -> ListPage:
        for place in self._coming:
            if (place.account, place.container) == (account, container) and place.path.startswith(prefix):
                return ListPage((_blob(account, container, place.path),), (), "")
        return self._blobs.list(account, container, prefix, delimiter, marker, limit)


def _blob(account: str, container: str, name: str) -> BlobInfo:
    return BlobInfo(account, container, name, 0, "", "", 0, 0)
