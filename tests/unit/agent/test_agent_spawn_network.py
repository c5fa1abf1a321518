"""Where a task's process is born: in the network it is given, and the agent stays where it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill.agent import network as networks
from tidemill.agent import relay, spawn
from tidemill.agent.network import MOST_QUICK_ENDS, Network
from tidemill.sandbox import network


def need(own_user: bool) -> network.Namespace:
    try:
        return network.make([], own_user)[0]
    except network.NotAvailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no network namespaces: {error}")
        pytest.skip(f"no network namespaces: {error}")


@pytest.fixture(params=[False, True], ids=["host-user", "own-user"])
def space(request: pytest.FixtureRequest) -> Iterator[network.Namespace]:
    if os.geteuid() != 0 and not request.param:
        pytest.skip("a namespace without a user namespace needs root")
    made = need(request.param)
    yield made
    made.close()


def run(order: spawn.Order) -> int:
    spawned = spawn.Grouped([]).start(order, [])
    return os.waitstatus_to_exitcode(os.waitpid(spawned.pid, 0)[1])


def order_of(tmp_path: Path, space: network.Namespace, *argv: str) -> spawn.Order:
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    made = spawn.Order(list(argv), {"PATH": "/usr/bin:/bin"}, str(tmp_path), log, 0)
    made.network = space
    return made


def test_a_task_is_born_in_its_network(tmp_path: Path, space: network.Namespace) -> None:
    before = os.readlink("/proc/self/ns/net")
    assert run(order_of(tmp_path, space, "readlink", "/proc/self/ns/net")) == 0
    assert (tmp_path / "log").read_text() == f"net:[{space.inode}]\n"
    assert os.readlink("/proc/self/ns/net") == before


def test_what_cannot_be_run_there_is_named(tmp_path: Path, space: network.Namespace) -> None:
    with pytest.raises(spawn.Failed, match="no-such-program"):
        spawn.Grouped([]).start(order_of(tmp_path, space, "no-such-program"), [])
    assert os.readlink("/proc/self/ns/net") != f"net:[{space.inode}]"


def test_another_process_in_its_place_is_not_taken_for_it(space: network.Namespace) -> None:
    mine = network.shared(os.getpid(), space.net, space.user, space.inode)
    assert mine.inode == space.inode
    mine.close()
    with pytest.raises(OSError, match="Stale"):
        network.shared(os.getpid(), space.net, space.user, space.inode + 1)
    with pytest.raises(OSError, match="No such"):
        network.shared(2**22 - 1, space.net, space.user, space.inode)


def test_a_relay_that_cannot_live_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    need(os.geteuid() != 0).close()
    monkeypatch.setattr(relay, "main", lambda *_: os._exit(1))
    monkeypatch.setattr(networks, "QUICK_S", 60.0)  # on a busy host it takes its time to end
    made = Network({"http": 7000}, 0)
    starts = 1
    while made.pid:
        pid = made.pid
        os.waitpid(pid, 0)
        made.reaped(pid)
        starts += made.pid != 0
    assert starts == MOST_QUICK_ENDS
    assert "do not reach the service" in capfd.readouterr().err
    made.close()
