"""The scheduler once more, naively: one pure function over a whole snapshot, sorting everything at each step.

For tests: whatever `PoolState` keeps between decisions, it must answer what this answers.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

from tidemill.domain.admission import admit
from tidemill.domain.model import NodeState, Vector
from tidemill.domain.quota import COMPUTE, JOBS, TEAM, USER, WORKSPACE, Key
from tidemill.domain.scheduling import sentences as words
from tidemill.domain.scheduling.backfill import LOOK
from tidemill.domain.scheduling.capacity import elastic_grants, limits
from tidemill.domain.scheduling.shares import decayed, dominant_rate, share
from tidemill.domain.scheduling.types import (
    Assign,
    CloseNode,
    ClusterSpec,
    JobRequest,
    NodeView,
    OpenNode,
    Party,
    Snapshot,
    Usage,
)

FOREVER = 1 << 62


@dataclass(slots=True)
class Answer:
    assigns: list[Assign] = field(default_factory=list[Assign])
    closes: list[CloseNode] = field(default_factory=list[CloseNode])
    opens: list[OpenNode] = field(default_factory=list[OpenNode])


@dataclass(slots=True)
class _Desk:
    """What is given out of one cluster in this decision."""

    spec: ClusterSpec
    nodes: list[NodeView]
    idle: list[NodeView]  # not given out, longest idle first
    coming: int  # not given out
    was_coming: int
    busy: int
    gone: int  # closing and lost
    started: list[JobRequest] = field(default_factory=list[JobRequest])
    later: list[JobRequest] = field(default_factory=list[JobRequest])
    opens: int = 0
    reclaimed: list[NodeView] = field(default_factory=list[NodeView])
    blocked: JobRequest | None = None
    stopped: bool = False
    looked: int = 0
    start_at: int = 0
    extra: int = 0

    @property
    def usable(self) -> int:
        """As the snapshot has it, before this decision."""
        return self.busy + self.was_coming + sum(n.state is NodeState.IDLE for n in self.nodes)

    @property
    def slots(self) -> int:
        given = sum(job.node_count for job in (*self.started, *self.later))
        return max(0, self.spec.max_nodes - self.busy - self.gone - len(self.reclaimed)) - given


def decide(snapshot: Snapshot, now: int) -> Answer:
    """The assigns, closes and opens that are right for this snapshot. Clusters that are being deleted only
    close their idle and opening nodes."""
    answer = Answer()
    desks: dict[str, _Desk] = {}
    for uid, spec in sorted(snapshot.clusters.items()):
        nodes = [node for node in snapshot.nodes if node.cluster_uid == uid]
        if spec.deleting:
            answer.closes += [
                CloseNode(node.id, uid, words.CLOSE_DELETED, "")
                for node in nodes
                if node.state in (NodeState.IDLE, NodeState.OPENING)
            ]
        else:
            desks[uid] = _desk(snapshot, spec, nodes)
    usages, users = dict(snapshot.usages), dict(snapshot.user_usages)
    free = _free(snapshot)
    claimed = [0, 0, 0]
    books = _Books(snapshot)
    competing = [uid for uid in desks if snapshot.quotas or limits(snapshot.host, desks[uid].spec)]
    for group in [competing] + [[uid] for uid in desks if uid not in competing]:
        given = {uid: desks[uid] for uid in group}
        _give_out(snapshot, now, given, usages, users, free, claimed, books, answer)
    for uid in desks:
        _close(desks[uid], now, answer)
    _open(snapshot, desks, free, claimed, books, answer)
    return answer


class _Books:
    """The quotas: what is held of each, counted over everything there is, and what this decision adds."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.quotas = snapshot.quotas
        self.held: dict[Key, int] = defaultdict(int)
        self.kept: dict[Key, int] = {}  # claimed by jobs that go first
        self.back: dict[Key, int] = defaultdict(int)  # will be given back by nodes that close
        for job, _ in snapshot.running:
            spec = snapshot.clusters[job.cluster_uid]
            _add(self.held, of_party(spec, job) + of_place(spec, 0, 1))
        for node in (*snapshot.nodes, *snapshot.opening):
            _add(self.held, of_place(snapshot.clusters[node.cluster_uid], 1, 0))
        for node in snapshot.nodes:
            if node.state is NodeState.CLOSING:
                _add(self.back, of_place(snapshot.clusters[node.cluster_uid], 1, 0))

    def short(self, asks: list[tuple[Key, int]]) -> list[tuple[Key, int]]:
        return [
            (key, asked)
            for key, asked in asks
            if asked and self._limit(key) < self.held.get(key, 0) + self.kept.get(key, 0) + asked
        ]

    def _limit(self, key: Key) -> int:
        limit = self.quotas.limit(key)
        return FOREVER if limit is None else limit

    def wanted(self, gives: list[tuple[Key, int]]) -> bool:
        return any(
            given and key in self.kept and self.kept[key] > self._limit(key) - self.held[key] + self.back[key]
            for key, given in gives
        )


def _add(to: dict[Key, int], asks: list[tuple[Key, int]]) -> None:
    for key, amount in asks:
        to[key] = to.get(key, 0) + amount


def _measured(spec: ClusterSpec, nodes: int, jobs: int) -> dict[str, int]:
    cores = nodes * spec.node.cpu_milli
    return {"cores": cores, "gpus": nodes * spec.node.gpus, "nodes": nodes, JOBS: jobs, spec.family: cores}


def of_place(spec: ClusterSpec, nodes: int, jobs: int) -> list[tuple[Key, int]]:
    workspace = spec.workspace.arm_id.lower()
    subjects = ((COMPUTE, f"{workspace}/computes/{spec.name.lower()}"), (WORKSPACE, workspace))
    parts = _measured(spec, nodes, jobs)
    return [((kind, id, measure), part) for kind, id in subjects for measure, part in parts.items()]


def of_party(spec: ClusterSpec, job: JobRequest, kinds: str = f"{TEAM} {USER}") -> list[tuple[Key, int]]:
    parts = _measured(spec, job.node_count, 1)
    subjects = [(kind, id) for kind, id in ((TEAM, job.team), (USER, job.user)) if kind in kinds.split()]
    return [((kind, id, measure), part) for kind, id in subjects for measure, part in parts.items()]


def _desk(snapshot: Snapshot, spec: ClusterSpec, nodes: list[NodeView]) -> _Desk:
    pending = sum(1 for node in snapshot.opening if node.cluster_uid == spec.uid)
    states = [node.state for node in nodes]
    coming = states.count(NodeState.OPENING) + pending
    return _Desk(
        spec,
        nodes,
        sorted((n for n in nodes if n.state is NodeState.IDLE), key=lambda n: (n.since, n.id)),
        coming,
        coming,
        states.count(NodeState.RUNNING),
        states.count(NodeState.CLOSING) + states.count(NodeState.LOST),
    )


def _free(snapshot: Snapshot) -> list[int]:
    held = [*snapshot.nodes, *snapshot.opening]
    gpus = snapshot.host.gpus - sum(len(node.gpu_ids) for node in held)
    if not snapshot.host.strict:
        return [FOREVER, FOREVER, gpus]
    total = snapshot.host.total
    return [
        total.cpu_milli - sum(node.granted.cpu_milli for node in held),
        total.memory - sum(node.granted.memory for node in held),
        gpus,
    ]


def _parts(size: Vector) -> tuple[int, int, int]:
    return size.cpu_milli, size.memory, size.gpus


def _fits(count: int, size: Vector, free: list[int], claimed: list[int]) -> bool:
    return all(
        part == 0 or count * part <= f - c for part, f, c in zip(_parts(size), free, claimed, strict=True)
    )


def _held_by_others(snapshot: Snapshot, uid: str) -> Vector:
    others = [
        spec
        for spec in snapshot.clusters.values()
        if spec.uid != uid and not spec.deleting and limits(snapshot.host, spec)
    ]
    return Vector(
        *(
            sum(min(spec.min_nodes, spec.max_nodes) * _parts(spec.node)[index] for spec in others)
            for index in range(3)
        )
    )


def _can_ever_start(snapshot: Snapshot, job: JobRequest, spec: ClusterSpec) -> bool:
    held = _held_by_others(snapshot, spec.uid) if limits(snapshot.host, spec) else Vector()
    return admit(job, spec, snapshot.host, held) is None and quota_for_ever(snapshot, job, spec) is None


def quota_for_ever(snapshot: Snapshot, job: JobRequest, spec: ClusterSpec) -> Key | None:
    """The quota that forbids the job whatever ends: of those the job fits none, if its other clusters'
    minimum nodes are counted as held."""
    books = _Books(replace(snapshot, running=(), nodes=(), opening=()))
    for other in snapshot.clusters.values():
        if other.uid != spec.uid and other.workspace == spec.workspace and not other.deleting:
            minimum = min(other.min_nodes, other.max_nodes)
            _add(books.held, [a for a in of_place(other, minimum, 0) if a[0][0] == WORKSPACE])
    over = books.short(of_party(spec, job) + of_place(spec, job.node_count, 1))
    return over[0][0] if over else None


def _give_out(
    snapshot: Snapshot,
    now: int,
    desks: dict[str, _Desk],
    usages: dict[str, Usage],
    users: dict[Party, Usage],
    free: list[int],
    claimed: list[int],
    books: _Books,
    answer: Answer,
) -> None:
    planned_rate: dict[str | Party, int] = {}

    def order(job: JobRequest) -> tuple[int, float, float, int, str]:
        weight = snapshot.quotas.team_weights.get(job.team, 1.0)
        usage = usages.get(job.team, Usage())
        value = share(usage, weight, now, snapshot.half_life_us, planned_rate.get(job.team, 0))
        weight = snapshot.quotas.user_weights.get(job.user, 1.0)
        usage = users.get(job.party, Usage())
        inside = share(usage, weight, now, snapshot.half_life_us, planned_rate.get(job.party, 0))
        return -job.priority, value, inside, job.submitted_at, job.uid

    left = [
        job
        for job in snapshot.waiting
        if job.cluster_uid in desks and _can_ever_start(snapshot, job, desks[job.cluster_uid].spec)
    ]
    while left:
        job = min(left, key=order)
        left.remove(job)
        desk = desks[job.cluster_uid]
        if desk.stopped:
            continue
        if _offer(snapshot, now, desk, job, free, claimed, books, desks, answer):
            rate = dominant_rate(snapshot.host, desk.spec.node, job.node_count)
            for who in (job.team, job.party):
                planned_rate[who] = planned_rate.get(who, 0) + rate
    for desk in desks.values():
        for job in desk.started:
            rate = dominant_rate(snapshot.host, desk.spec.node, job.node_count)
            usages[job.team] = _grown(usages.get(job.team), rate, now, snapshot.half_life_us)
            users[job.party] = _grown(users.get(job.party), rate, now, snapshot.half_life_us)


def _grown(old: Usage | None, rate: int, now: int, half_life_us: int) -> Usage:
    if old is None:
        return Usage(0.0, now, rate)
    return Usage(decayed(old, now, half_life_us), now, old.rate + rate)


def _offer(
    snapshot: Snapshot,
    now: int,
    desk: _Desk,
    job: JobRequest,
    free: list[int],
    claimed: list[int],
    books: _Books,
    desks: dict[str, _Desk],
    answer: Answer,
) -> bool:
    count, size = job.node_count, desk.spec.node
    opens = max(0, count - len(desk.idle) - desk.coming)
    if desk.slots <= 0:
        desk.stopped = True
        return False
    over = books.short(of_party(desk.spec, job, USER)) or books.short(of_party(desk.spec, job, TEAM))
    if over:
        _add(books.kept, over)
        return False
    no_room = bool(opens) and not _fits(opens, size, free, claimed)
    over = books.short(of_place(desk.spec, opens, 1))
    if desk.blocked is None:
        if count > desk.slots:
            desk.blocked = job
            desk.start_at, desk.extra = _reservation(snapshot, now, desk, job)
            return False
        if no_room or over:
            desk.blocked, desk.stopped = job, True
            if not over:
                for index, part in enumerate(_parts(size)):
                    claimed[index] += opens * part
            _add(books.kept, over or [ask for ask in of_place(desk.spec, opens, 1) if ask[1]])
            _reclaim(snapshot, desk, desks, free, claimed, books)
            return False
    else:
        desk.looked += 1
        if desk.looked >= LOOK:
            desk.stopped = True
        if count > desk.slots or no_room or over:
            return False
        in_time = job.estimated_us is not None and now + job.estimated_us <= desk.start_at
        if not in_time and count > desk.extra:
            return False
        if not in_time:
            desk.extra -= count
    _add(books.held, of_party(desk.spec, job) + of_place(desk.spec, opens, 1))
    if len(desk.idle) >= count:
        taken = desk.idle[len(desk.idle) - count :]
        desk.idle = desk.idle[: len(desk.idle) - count]
        taken.sort(key=lambda node: node.id)
        code = words.BACKFILLED if desk.blocked else words.ASSIGNED
        ids = tuple(node.id for node in taken)
        answer.assigns.append(
            Assign(job.uid, job.cluster_uid, ids, tuple(node.gpu_ids for node in taken), code, "")
        )
        desk.started.append(job)
        return True
    desk.coming -= count - len(desk.idle) - opens
    desk.idle = []
    desk.opens += opens
    for index, part in enumerate(_parts(size)):
        free[index] -= opens * part
    desk.later.append(job)
    return True


def _reservation(snapshot: Snapshot, now: int, desk: _Desk, job: JobRequest) -> tuple[int, int]:
    """Tries every instant at which something might end: (earliest possible start, nodes left over then)."""
    holders: list[tuple[int, int]] = []
    unknown = desk.gone + len(desk.reclaimed) + sum(later.node_count for later in desk.later)
    for running, since in (*snapshot.running, *((started, now) for started in desk.started)):
        if running.cluster_uid != desk.spec.uid:
            continue
        held = sum(
            1 for n in desk.nodes if n.job_uid == running.uid and n.state is NodeState.RUNNING
        ) or running.node_count * (running in desk.started)
        end = since + running.estimated_us if running.estimated_us is not None else now
        if end <= now:
            unknown += held
        else:
            holders.append((end, held))
    for instant in [now, *sorted({end for end, _ in holders})]:
        reached = desk.slots + unknown + sum(held for end, held in holders if end <= instant)
        if reached >= job.node_count:
            return instant, reached - job.node_count if unknown == 0 and instant > now else 0
    return now, 0


def _reclaim(
    snapshot: Snapshot,
    desk: _Desk,
    desks: dict[str, _Desk],
    free: list[int],
    claimed: list[int],
    books: _Books,
) -> None:
    closing = [node for node in snapshot.nodes if node.state is NodeState.CLOSING]
    back = [0, 0, 0]
    for node in [*closing, *(node for other in desks.values() for node in other.reclaimed)]:
        for index, part in enumerate((node.granted.cpu_milli, node.granted.memory, len(node.gpu_ids))):
            back[index] += part
    candidates = sorted(
        ((node, other) for other in desks.values() if other is not desk for node in other.idle),
        key=lambda pair: (pair[0].since, pair[0].id),
    )
    for node, other in candidates:
        usable = other.usable - len(other.reclaimed)
        if (other.blocked and other.slots > 0) or usable <= min(other.spec.min_nodes, other.spec.max_nodes):
            continue
        gives = (node.granted.cpu_milli, node.granted.memory, len(node.gpu_ids))
        helps = any(
            g > 0 and c > 0 and c > f + b for g, c, f, b in zip(gives, claimed, free, back, strict=True)
        )
        if not helps and not books.wanted(of_place(other.spec, 1, 0)):
            continue
        other.idle.remove(node)
        other.reclaimed.append(node)
        _add(books.back, of_place(other.spec, 1, 0))
        for index, part in enumerate(gives):
            back[index] += part


def _close(desk: _Desk, now: int, answer: Answer) -> None:
    spec = desk.spec
    for node in desk.reclaimed:
        answer.closes.append(CloseNode(node.id, spec.uid, words.CLOSE_RECLAIMED, ""))
    started = {node_id for assign in answer.assigns for node_id in assign.node_ids}
    gone = {node.id for node in desk.reclaimed}
    idle = sorted(
        (n for n in desk.nodes if n.state is NodeState.IDLE and n.id not in started | gone),
        key=lambda n: (n.since, n.id),
    )
    busy = desk.busy + sum(job.node_count for job in desk.started)
    have = busy + len(idle) + desk.was_coming + desk.opens
    keep = max(min(spec.min_nodes, spec.max_nodes), busy + sum(job.node_count for job in desk.later))
    for node in idle:
        if have <= keep:
            return
        if have > spec.max_nodes:
            code = words.CLOSE_MAXIMUM
        elif node.since + spec.idle_us <= now:
            code = words.CLOSE_IDLE
        else:
            return
        answer.closes.append(CloseNode(node.id, spec.uid, code, ""))
        have -= 1


def _open(
    snapshot: Snapshot,
    desks: dict[str, _Desk],
    free: list[int],
    claimed: list[int],
    books: _Books,
    answer: Answer,
) -> None:
    wishes: list[tuple[ClusterSpec, str]] = []
    for desk in desks.values():
        wishes += [(desk.spec, words.OPEN_DEMAND)] * desk.opens
    for desk in desks.values():
        spec = desk.spec
        usable = desk.usable + desk.opens - len(desk.reclaimed)
        live = usable + desk.gone + len(desk.reclaimed)
        while usable < min(spec.min_nodes, spec.max_nodes) and live < spec.max_nodes:
            if not _fits(1, spec.node, free, claimed) or books.short(of_place(spec, 1, 0)):
                break
            _add(books.held, of_place(spec, 1, 0))
            for index, part in enumerate(_parts(spec.node)):
                free[index] -= part
            wishes.append((spec, words.OPEN_MINIMUM))
            usable, live = usable + 1, live + 1
    sizes = {node.id: snapshot.clusters[node.cluster_uid].node for node in snapshot.nodes}
    sizes |= {f"old{i}": snapshot.clusters[n.cluster_uid].node for i, n in enumerate(snapshot.opening)}
    sizes |= {f"new{i}": spec.node for i, (spec, _) in enumerate(wishes)}
    grants = sizes if snapshot.host.strict else elastic_grants(snapshot.host, sizes)
    taken = {gpu for node in (*snapshot.nodes, *snapshot.opening) for gpu in node.gpu_ids}
    gpus = [gpu for gpu in snapshot.host.gpu_ids if gpu not in taken]
    for index, (spec, code) in enumerate(wishes):
        mine, gpus = tuple(gpus[: spec.node.gpus]), gpus[spec.node.gpus :]
        answer.opens.append(OpenNode(spec.uid, index, grants[f"new{index}"], mine, code, ""))
