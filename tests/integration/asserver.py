"""Being the server of a home that gave root up: its user, without rights, in its mount namespace."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidemill.sandbox import cgroups, linux
from tidemill.server import privileges


def in_a_child(work: Callable[[], Any]) -> Any:
    """What `work` returns (JSON), done in a fork; what it raises fails the test."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = {"done": work()}
        except BaseException:
            said = {"raised": traceback.format_exc()}
        finally:
            with os.fdopen(writer, "w") as pipe:
                json.dump(said, pipe)
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    answer = json.loads(text)
    assert "raised" not in answer, answer["raised"]
    return answer["done"]


def as_server(pid: int, work: Callable[[], Any], user: int = -1, groups: list[int] | None = None) -> Any:
    """`work`, by a process with the user, the mount namespace and the control groups of the server whose pid
    is given: what somebody has who took it over. `user`, `groups`: another's instead."""

    def become() -> Any:
        for place in {found.own for found in cgroups.hierarchies(f"/proc/{pid}").values()}:
            cgroups.write(f"{place}/cgroup.procs", "0")
        space = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
        uid = user_of(pid) if user < 0 else user
        linux.setns(space, linux.CLONE_NEWNS)
        os.close(space)
        linux.drop_bounding_set()
        os.setgroups([uid + 1] if groups is None else groups)
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        linux.no_new_privileges()
        return work()

    return in_a_child(become)


def user_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Uid:")).split()[1])


def need_dropping(folder: Path) -> None:
    """Skips where a server keeps root, or has none; fails in CI."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give it up")
    why = privileges.why_not(folder)
    if why and os.environ.get("CI") == "true":
        pytest.fail(why)
    if why:
        pytest.skip(why)
