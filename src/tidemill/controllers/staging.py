"""Putting an attempt's files in place before it starts, and its results into storage after it ended.

Layout of an attempt's directory on a node (the job sees it, its uid owns it):
    .venv/     the job's own Python environment, over the shared one (environments/overlay.py)
    code/      the code folder, the working directory of the command
    inputs/<name>/…   outputs/<name>/…   user_logs/std_log*.txt
Both directions can be repeated: a controller that died half-way does them again. What was staged is
committed with the attempt before anything is started, so a running job's files are never staged twice.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from tidemill.app.assets.surroundings import built_environment
from tidemill.app.jobs.transitions import Collected
from tidemill.app.rows.codec import encode
from tidemill.app.services import Services
from tidemill.controllers import container_files, parallel, serving
from tidemill.data.outputs import collect_artifacts, collect_logs, collect_outputs, prepare_outputs
from tidemill.data.staging import Going, clear, stage_code, stage_inputs
from tidemill.domain import jobservices
from tidemill.domain.launch import log_names, ports_needed
from tidemill.domain.model import Attempt, AttemptState
from tidemill.domain.outcome import TAIL_BYTES
from tidemill.domain.plan import JobPlan, Place
from tidemill.engines.base import EngineError, Unreachable
from tidemill.environments import overlay
from tidemill.store.api import Tx

LOGS = "user_logs"
# Azure has them in the working directory before the command runs: scripts write there without making them.
KEPT = ("code/outputs", "code/logs")
# Few: on a busy disk making one costs more than starting a process.
FOLDERS = ("code", *KEPT, LOGS)


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """One node's directory, and what `${{inputs.x}}` and `${{outputs.y}}` become there."""

    root: str
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True, slots=True)
class Staged:
    """What an attempt was given, per node, and the ports its ranks meet on."""

    nodes: tuple[NodeFiles, ...]
    ports: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


_decode_staged = msgspec.json.Decoder(Staged)


def _on() -> None: ...


async def stage(s: Services, plan: JobPlan, attempt: Attempt, going: Going = _on) -> tuple[Staged, Attempt]:
    """Directories, code and inputs on every node, once per attempt. Raises what a user can mend, and
    Stopped, which `going` raises when the files are not wanted any more."""
    if attempt.ranks != b"{}":
        return _decode_staged.decode(attempt.ranks), attempt
    files: list[NodeFiles] = []
    notes: list[str] = []
    for node in attempt.nodes:
        root = await _prepare_dir(s, plan, attempt, node)
        staged = NodeFiles(root, {}, {})
        if plan.has_files:
            staged, said = await asyncio.to_thread(_stage_node, s, plan, Path(root), going)
            notes += [note for note in said if note not in notes]
            if plan.group is not None:
                await container_files.stage(s, plan.group, attempt, root, going)
            await s.engine.settle_dir(node, attempt.id)
        files.append(staged)
    ports = serving.free_ports(ports_needed(plan.job.distribution))
    if plan.service is not None:
        ports = await serving.ports(s, plan.service, attempt)
    result = Staged(tuple(files), ports, tuple(notes))
    if not (plan.has_files or ports):
        return result, attempt  # nothing that staging twice could harm: no commit for it

    def remember(tx: Tx) -> Attempt:
        current = tx.attempt(attempt.id)
        assert current is not None
        state = AttemptState.STARTING if current.state is AttemptState.ASSIGNED else current.state
        return tx.update_attempt(replace(current, state=state, ranks=encode(result)))

    return result, await s.store.write(remember)


def may_have_started(plan: JobPlan, attempt: Attempt) -> bool:
    """Of an attempt found at a start: nothing runs before what had to be staged for it is committed."""
    staged = attempt.ranks != b"{}"
    return staged or not (plan.has_files or ports_needed(plan.job.distribution))


async def _prepare_dir(s: Services, plan: JobPlan, attempt: Attempt, node: str) -> str:
    """Raises Unreachable where files have to be put: nothing of the attempt runs there then. Without files it
    may run already, from before a restart: whoever starts it will learn what became of its node."""
    built = built_environment(s, plan.environment)
    folders, links = overlay.layout(built) if built is not None else ((), ())
    try:
        own = (*FOLDERS, jobservices.FOLDER) if plan.services else FOLDERS
        return await s.engine.prepare_dir(node, attempt.id, (*own, *folders), links)
    except Unreachable:
        if plan.has_files:
            raise
        return s.engine.work_dir(node, attempt.id)


def _stage_node(s: Services, plan: JobPlan, root: Path, going: Going) -> tuple[NodeFiles, tuple[str, ...]]:
    if plan.code is not None:
        stage_code(s.blobs, plan.code, root / "code", going)
        for name in KEPT:
            with suppress(FileExistsError):  # the code has a file of this name
                (root / name).mkdir(exist_ok=True)
    if plan.service is not None:
        serving.stage(s.blobs, plan.service, root, going)
    inputs = stage_inputs(s.blobs, plan.inputs, root / "inputs", going)
    outputs = prepare_outputs(plan.outputs, root / "outputs")
    if plan.parallel is not None:
        parallel.stage(plan, plan.parallel, root, inputs.values, outputs)
    return NodeFiles(str(root), inputs.values, outputs), inputs.notes


async def make_room(s: Services, attempt: Attempt, kept: Sequence[str] = ()) -> None:
    """Removes an attempt's folders but `kept`, on every node. Nothing of it may run."""
    roots = [Path(s.engine.work_dir(node, attempt.id)) for node in attempt.nodes]

    def remove() -> None:
        for root in roots:
            for path in root.iterdir() if root.is_dir() else ():
                if path.name not in kept:
                    with suppress(OSError):
                        clear(path)

    await asyncio.to_thread(remove)


async def collect(
    s: Services, plan: JobPlan, attempt: Attempt, *, succeeded: bool, retried: bool
) -> Collected:
    """Stores logs, `outputs/` and those of its outputs that are kept (data/outputs.py). A retried attempt's
    logs go below `retries/N/`, so that the next attempt's do not replace them."""
    directories = [s.engine.work_dir(node, attempt.id) for node in attempt.nodes]
    if not plan.outputs and all(_nothing_written(directory, plan) for directory in directories):
        return Collected()
    roots = [Path(directory) for directory in directories]
    return await asyncio.to_thread(_collect, s, plan, attempt, roots, succeeded, retried)


def _nothing_written(root: str, plan: JobPlan) -> bool:
    """Whether an attempt left nothing that is kept: empty logs, nothing in `outputs/` and `logs/`."""
    for path, _ in log_names(plan.job):
        with suppress(FileNotFoundError):
            if os.stat(f"{root}/{path}").st_size:
                return False
    return not any(_holds_something(f"{root}/{name}") for name in KEPT)


def _holds_something(folder: str) -> bool:
    """Also of what is no folder any more: that is said when it is collected."""
    if os.path.islink(folder):
        return True
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _collect(
    s: Services, plan: JobPlan, attempt: Attempt, roots: list[Path], succeeded: bool, retried: bool
) -> Collected:
    assert plan.artifacts is not None
    folder = f"retries/{attempt.number:03d}/" if retried else ""
    place = _below(plan.artifacts, folder)
    notes: list[str] = []
    logs: dict[str, int] = {}
    # The first node is stored last: where several wrote the same name, rank 0's stays.
    for root in reversed(roots):
        if not root.exists():
            continue
        stored = [*collect_outputs(s.blobs, plan.outputs, root / "outputs", succeeded).values()]
        stored.append(collect_artifacts(s.blobs, place, root / "code", root))
        for path, size in collect_logs(s.blobs, _below(place, f"{LOGS}/"), root / LOGS):
            if size:
                logs[f"{folder}{LOGS}/{path}"] = size
        notes += [note for item in stored for note in item.notes if note not in notes]
    return Collected(logs=tuple(sorted(logs.items())), notes=tuple(notes))


def _below(place: Place, folder: str) -> Place:
    return Place(place.account, place.container, place.path + folder)


async def log_tail(s: Services, attempt: Attempt, node: str, log: str) -> str:
    """The end of a rank's log, for the message of a failure."""
    try:
        size = await s.engine.log_size(node, attempt.id, log)
        start = max(size - TAIL_BYTES, 0)
        raw = await s.engine.read_log(node, attempt.id, log, start, TAIL_BYTES)
    except EngineError:
        return ""
    return raw.decode("utf-8", "replace")
