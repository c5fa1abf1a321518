"""The home's keys as their owner sees and rotates them, on the running server.

Signing: a new key signs tokens; older ones verify until their tokens have expired. Storage: account keys and
signed addresses come from a new key; those from the one before work until the next rotation. Links: likewise,
and refresh tokens with them. Master: a new key seals secrets; every row is sealed anew in the background, and
the old keys are forgotten when none is left under them. `at_once` (not of the master key): what was signed
before is worth nothing from now on. A kill at any moment loses nothing: new keys are on disk before they are
used, old ones until nothing needs them.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from tidemill.app.people import providers
from tidemill.app.people.secretstore import VERSIONS
from tidemill.app.rows.sealed import resealed
from tidemill.app.services import Services
from tidemill.app.times import iso
from tidemill.domain.errors import InvalidRequest
from tidemill.identity import keys as key_files
from tidemill.identity import storage_keys
from tidemill.identity.signing import KEPT_US
from tidemill.store.api import ResourceQuery, Tx

KINDS = ("signing", "storage", "master", "links")
SEALED_TYPES = ("datastores", "connections", "notificationSettings", "containerGroups", VERSIONS)
_BATCH = 100
_log = logging.getLogger("tidemill.keys")


async def overview(s: Services) -> list[dict[str, Any]]:
    """{"kind", "id", "state", "until"} of each key, the newest of a kind first. Never a key."""
    now, signing = s.clock.now(), s.tokens.signing
    found = [_entry("signing", signing.key_id, "signs")]
    for old in signing.old():
        counts = signing.counts(old.kid, old.retired_at, now)
        state = "revoked" if old.revoked else "verifies" if counts else "expired"
        found.append(_entry("signing", old.kid, state, old.retired_at + KEPT_US if counts else None))
    found += [
        _entry("master", key, "seals" if key == s.secrets.current else "opens") for key in s.secrets.key_ids
    ]
    found += [
        _entry("storage", f"key{at + 1}", "signs" if at == 0 else "verifies")
        for at in range(s.storage_keys.count)
    ]
    found += [
        _entry("links", str(at), "signs" if at == 0 else "verifies") for at in range(s.tokens.link_keys)
    ]
    return found


async def rotate(s: Services, kind: str, *, at_once: bool) -> str:
    """-> a sentence about what happens now. Raises InvalidRequest for a kind that is none."""
    directory = secrets_directory(s)
    if kind == "signing":
        kid = s.tokens.signing.rotate(s.clock.now(), at_once=at_once)
        after = (
            "tokens from before are worth nothing"
            if at_once
            else "tokens from before count until they expire"
        )
        return f"Key {kid} signs tokens now; {after}."
    if kind == "master":
        if at_once:
            raise InvalidRequest("--at-once is not for the master key: what is sealed needs its key.")
        return rotate_master(s)
    if kind == "storage":
        s.storage_keys.take(storage_keys.rotate(directory / key_files.STORAGE, at_once=at_once))
        after = "those from before" + (" open nothing" if at_once else " work until the next rotation")
        return f"Account keys and signed addresses are made from a new key now; {after}."
    if kind == "links":
        s.tokens.take_links(key_files.rotate_links(directory, at_once=at_once))
        return "A new key signs links now" + ("." if at_once else "; links from before are still good.")
    raise InvalidRequest(f"{kind!r} is no kind of key. Use {', '.join(KINDS)}.", target="kind")


def rotate_master(s: Services) -> str:
    directory = secrets_directory(s)
    key_files.rotate_master(directory)
    s.secrets.take(key_files.load_or_create(directory).master)
    return f"Key {s.secrets.current} seals secrets now; those from before are being sealed anew."


def secrets_directory(s: Services) -> Path:
    return s.settings.home / "secrets"


def _entry(kind: str, id: str, state: str, until: int | None = None) -> dict[str, Any]:
    return {"kind": kind, "id": id, "state": state, "until": iso(until)}


class Resealer:
    """Seals everything anew under the newest master key, then forgets the older ones. Begun again at a
    start that finds more than one."""

    def __init__(self, services: Services) -> None:
        self._s = services
        self._again = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._s.secrets.on_take(self._look)
        self._look()
        self._task = asyncio.create_task(self._run(), name="resealer")

    def _look(self) -> None:
        if len(self._s.secrets.key_ids) > 1:
            self._again.set()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause = 1.0
        while True:
            await self._again.wait()
            self._again.clear()
            try:
                await self.reseal()
                pause = 1.0
            except Exception:
                _log.exception("secrets could not be sealed anew; again in %.0f s", pause)
                self._again.set()
                await asyncio.sleep(pause)
                pause = min(pause * 2, 300.0)

    async def reseal(self) -> None:
        box, kept = self._s.secrets, self._s.secrets.current
        while await self._pass():
            pass  # until one pass finds nothing: what was begun under the old key before is found by the next
        if box.current != kept:
            return  # rotated once more meanwhile; it is our turn again
        directory = secrets_directory(self._s)
        key_files.forget_master(directory, kept)
        box.take(key_files.load_or_create(directory).master)
        reason = f"Everything is sealed under key {kept}; older keys are forgotten."
        now = self._s.clock.now()
        self._s.activity.system(now, "Tidemill.Server/keys/forget/action", "", "keys/master", reason)

    async def _pass(self) -> int:
        """-> how many rows were sealed anew. Raises ValueError for one that does not open."""
        changed = await self._s.store.write(lambda tx: providers.reseal(self._s.secrets, tx))
        for kind in SEALED_TYPES:
            after: str | None = None
            while True:
                query = ResourceQuery(kind, ascending=True, limit=_BATCH, after=after)
                rows, count = await self._s.store.write(lambda tx, q=query: self._batch(tx, q))
                changed += count
                if len(rows) < _BATCH:
                    break
                after = rows[-1]
                await asyncio.sleep(0)
        return changed

    def _batch(self, tx: Tx, query: ResourceQuery) -> tuple[list[str], int]:
        found, count = tx.find(query), 0
        for row in found:
            anew = resealed(self._s.secrets, row)
            if anew is not None:
                tx.update(anew)
                count += 1
        return [row.uid for row in found], count
