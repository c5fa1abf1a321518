"""What isolation a job must have, and what the nodes it gets have: asked for by the server's settings, by a
tag of the compute and by a tag of the job; the strictest counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from tidemill.app.computes import computes
from tidemill.app.rows.codec import decode_object
from tidemill.app.services import Services
from tidemill.domain.errors import Conflict
from tidemill.domain.isolation import LEVELS, Limit, level_of, reached, shortfall, strictest
from tidemill.domain.model import Attempt, Node

_decode_limits = msgspec.json.Decoder(dict[str, Limit]).decode


async def required_of(s: Services, compute_uid: str, tags: Mapping[str, Any]) -> str:
    """The level a job with these tags needs on this compute, "" for none. Raises InvalidRequest for a word
    that is no level, Conflict where this host cannot give it."""
    _, raw, _ = await s.store.read(lambda read: computes.bill_of(read, compute_uid))
    own = level_of(tags, "properties.tags")
    level = strictest(s.settings.require_isolation, level_of(decode_object(raw), "tags"), own)
    if level:
        await check_host(s, level)
    return level


async def check_host(s: Services, level: str) -> None:
    """Raises Conflict with what is missing."""
    problem = shortfall(level, await s.engine.isolation())
    if problem:
        raise Conflict(f"{problem[:1].upper()}{problem[1:]} See: tidemill doctor", "IsolationNotMet")


async def check_nodes(s: Services, attempt: Attempt, level: str) -> str:
    """-> a line for the job's time line. Raises Conflict where a node does not have what the job needs."""
    found = await s.store.read(lambda read: [read.node(node) for node in attempt.nodes])
    nodes = [node for node in found if node is not None]
    for node in nodes if level else ():
        problem = shortfall(level, limits_of(node))
        if problem:
            raise Conflict(f"Node {node.id}: {problem}", "IsolationNotMet")
    return _line(nodes)


async def of_job(s: Services, required: str, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """-> {"required", "level", "limits"}, of the weakest node of the last attempt; "" and {} before there is
    one."""
    names = attempts[-1].nodes if attempts else ()
    found = await s.store.read(lambda read: [read.node(name) for name in names])
    reports = [limits_of(node) for node in found if node is not None]
    weakest = min(reports, key=lambda limits: LEVELS.index(reached(limits)), default=dict[str, Limit]())
    return {
        "required": required,
        "level": reached(weakest) if weakest else "",
        "limits": {name: asdict(limit) for name, limit in sorted(weakest.items())},
    }


def limits_of(node: Node) -> dict[str, Limit]:
    return _decode_limits(node.limits)


def _line(nodes: Sequence[Node]) -> str:
    """Nodes of one attempt are of one size on one host: their reports are alike, but for what failed."""
    levels = sorted({reached(limits_of(node)) for node in nodes})
    loose = sorted({name for node in nodes for name, limit in limits_of(node).items() if not limit.enforced})
    text = f"Isolation: {', '.join(levels) or 'not known'}."
    return f"{text} Not enforced: {', '.join(loose)}." if loose else text
