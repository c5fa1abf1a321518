"""Where quotas and weights are kept: `Key(Scope(subscription), "quotas", "KIND:ID")`."""

from __future__ import annotations

from tidemill.domain.model import Key, Scope
from tidemill.domain.quota import TEAM, USER
from tidemill.store.api import Tx

TYPE = "quotas"


def key_of(subscription: str, kind: str, id: str) -> Key:
    return Key(Scope(subscription), TYPE, f"{kind}:{id}")


def forget(tx: Tx, subscription: str, oid: str) -> None:
    """What is set for a principal that goes."""
    for kind in (TEAM, USER):
        row = tx.get(key_of(subscription, kind, oid))
        if row is not None:
            tx.delete(row)
