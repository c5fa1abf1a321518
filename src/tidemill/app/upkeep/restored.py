"""The first start of a home that was made of a backup.

What ran at the moment of the backup runs nowhere here: its processes belong to the home that it was made of,
where it may have gone on. So it ends, with that reason, and is not tried again; what waited goes on waiting.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tidemill.app.jobs import notices
from tidemill.app.jobs.transitions import Collected, Moment, close_intervals, end, node_in
from tidemill.app.services import Services
from tidemill.domain.model import AttemptState, Event, Node, NodeState, Outcome
from tidemill.domain.outcome import AttemptEnd
from tidemill.store.api import Tx

NAME = "restored.json"  # in the home: {"from", "home", "created_at"}, until what it says is done
CODE = "InterruptedByRestore"
_ACTION = "Tidemill.Server/home/restore/action"
log = logging.getLogger("tidemill.restored")


async def settle(s: Services) -> None:
    """Does it once, before anything is decided. A kill in between repeats it, and changes nothing twice."""
    path = s.settings.home / NAME
    try:
        note: Mapping[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return
    taken = datetime.fromtimestamp(note["created_at"] / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    now = s.clock.now()
    attempts, nodes = await s.store.read(lambda r: (r.live_attempts(), r.live_nodes()))
    for attempt in attempts:
        await s.store.write(lambda tx, id=attempt.id: _interrupt(tx, id, now, taken))
    for node in nodes:
        await s.store.write(lambda tx, id=node.id: _close(tx, id, now))
    waiting = await s.store.read(notices.pending)
    for notice in waiting:  # the home that it was made of sends them
        await s.store.write(lambda tx, uid=notice.uid: _drop(tx, uid))
    reason = (
        f"Restored from {note['from']}, a backup of {note['home']} as it was at {taken}: "
        f"{len(attempts)} running attempts ended, {len(nodes)} nodes closed."
    )
    log.info(reason)
    s.activity.system(now, _ACTION, "", "home", reason)
    path.unlink()


def _drop(tx: Tx, uid: str) -> None:
    row = tx.by_uid(uid)
    if row is not None:
        tx.delete(row)


def _interrupt(tx: Tx, attempt_id: str, now: int, taken: str) -> None:
    attempt = tx.attempt(attempt_id)
    if attempt is None or attempt.state is AttemptState.ENDED:
        return
    when = Moment(now, 0, "")
    for node_id in attempt.nodes:
        close_intervals(tx, node_id, when, CODE, False)
    sentence = (
        f"It ran when the backup was taken ({taken}) that this home was restored from, so it ended here: its "
        "processes and what it had not stored are not in a backup. To run it again: tidemill job rerun."
    )
    result = AttemptEnd(Outcome.FAILED, CODE, sentence)
    end(tx, attempt_id, when, result, None, Collected())


def _close(tx: Tx, node_id: str, now: int) -> None:
    node: Node | None = tx.node(node_id)
    if node is None or node.state is NodeState.CLOSED:
        return
    message = "This home was restored from a backup; the node is not in it."
    close_intervals(tx, node_id, Moment(now, 0, ""), CODE, False)
    tx.update_node(node_in(node, NodeState.CLOSED, closed_at=now, attempt_id="", reason=message))
    tx.add_event(Event(node_id, "node", now, "NodeClosed", message))
    tx.add_event(Event(node.compute_uid, "compute", now, "NodeClosed", f"Node {node_id}: {message}"))
