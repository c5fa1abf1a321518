"""Between the agent's words and the engine contract's: sizes, limits, events; and the host's own memory."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tidemill.domain.isolation import Limit
from tidemill.domain.model import Vector
from tidemill.engines.base import EngineEvent, Service, TaskKey, TaskSpec
from tidemill.sandbox import cgroups as groups


def size(granted: Vector) -> dict[str, int]:
    return {"cpu_milli": granted.cpu_milli, "memory": granted.memory, "gpus": granted.gpus}


def limits(hello: dict[str, Any]) -> dict[str, Limit]:
    return {use: Limit(**line) for use, line in hello.get("limits", {}).items()}


def handle(hello: dict[str, Any]) -> bytes:
    return json.dumps({k: hello[k] for k in ("pid", "uid", "groups") if k in hello}).encode()


def start(task: TaskSpec) -> dict[str, Any]:
    """The agent's verb, but for what depends on the node."""
    return {
        "attempt": task.attempt_id,
        "rank": task.rank,
        "epoch": task.epoch,
        "argv": list(task.argv),
        "cwd": task.cwd,
        "log_path": task.log_path,
        "term_grace_s": task.term_grace_s,
        "timeout_s": task.timeout_s,
        "gpu_ids": list(task.gpu_ids),
        "service": _service(task.service) if task.service else None,
        "rootfs": task.rootfs,
        "read_only": list(task.read_only),
        "shown_at": [list(pair) for pair in task.shown_at],
        "writable_at": [list(pair) for pair in task.writable_at],
        "chdir": task.chdir,
        "runtime": task.runtime,
    }


def _service(service: Service) -> dict[str, Any]:
    probes = {"ready": service.ready, "live": service.live}
    return {
        "restart": asdict(service.restart),
        "probes": {
            name: {**asdict(probe), "eager": name == "ready"} for name, probe in probes.items() if probe
        },
    }


def task_event(node_id: str, event: dict[str, Any]) -> EngineEvent:
    return EngineEvent(
        kind=event["kind"],
        node_id=node_id,
        task=TaskKey(event["attempt"], event["rank"]),
        epoch=event["epoch"],
        at=event["at"],
        mono=event["mono"],
        pid=event.get("pid", 0),
        exit_code=event.get("exit_code"),
        signal=event.get("signal"),
        reason=event.get("reason", ""),
        message=event.get("message", ""),
        restarts=event.get("restarts", 0),
        again_in_s=event.get("again_in_s", 0.0),
        peak_memory=event.get("peak_memory"),
    )


def cpu_used(hello: dict[str, Any]) -> int | None:
    """By the v2 group that its processes are ended with: there every group counts, whatever controls it."""
    directory = hello.get("groups", {}).get("kill")
    try:
        lines = Path(directory, "cpu.stat").read_text().splitlines() if directory else []
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("usage_usec ")), None)


def memory_used(hello: dict[str, Any]) -> int | None:
    """By the group with the memory controller: `anon` of v2, `total_rss` of v1."""
    directory = hello.get("groups", {}).get("memory")
    try:
        lines = Path(directory, "memory.stat").read_text().splitlines() if directory else []
    except OSError:
        return None
    counted = (line.split() for line in lines)
    return next((int(value) for name, value in counted if name in ("anon", "total_rss")), None)


def free_memory() -> int | None:
    """Bytes that the host has for more."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def host_memory() -> int:
    """Bytes: what the host has, or less where this process's own cgroup allows less."""
    with open("/proc/meminfo") as file:
        total = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemTotal:"))
    found = groups.hierarchies()
    for use, name in (("memory", "memory.limit_in_bytes"), ("v2", "memory.max")):
        if use in found:
            try:
                text = Path(found[use].own, name).read_text().strip()
            except OSError:
                continue
            if text.isdigit():
                total = min(total, int(text))
    return total
