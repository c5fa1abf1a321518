"""A node's own network: only the service is in it, under the ports that jobs were told."""

# ruff: noqa: ASYNC110, ASYNC240 - small files of the test's own, and a deadline around every loop

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from engine_support import Harness, alive, local_engine, needs_bash

from connections import connected
from hostcan import need, no_network
from tidemill.engines.base import TaskKey
from tidemill.engines.local import LocalEngine

pytestmark = [needs_bash, pytest.mark.kill]


@pytest.fixture(autouse=True)
def own_network() -> None:
    need(no_network())


GET = """
import socket, sys
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
sock.sendall(b"ping")
print(sock.recv(64).decode())
"""
# Every address family a job might leave by, and what is listening on the host: connected, or why not.
PROBE = """
import errno, socket, sys
def reach(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        code = sock.connect_ex(address)
        print(address[0], errno.errorcode.get(code, code))
for host in ("169.254.169.254", "10.0.0.1", "192.0.2.1"):
    reach(socket.AF_INET, (host, 80))
reach(socket.AF_INET6, ("2001:db8::1", 80))
reach(socket.AF_INET, ("127.0.0.1", int(sys.argv[1])))
with socket.socket(socket.AF_UNIX) as sock:
    print("abstract", errno.errorcode.get(sock.connect_ex(chr(0) + sys.argv[2])))
try:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    print("raw made")
except OSError as error:
    print("raw", errno.errorcode[error.errno])
print("routes", len(open("/proc/net/route").read().splitlines()) - 1)
"""


def lasting_port() -> int:
    """One that the kernel gives to nobody who asks for any: it is free again for who has left it."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Service:
    """Answers each connection with `word` and what it was sent."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.server: asyncio.Server | None = None
        self.port = lasting_port()

    async def start(self) -> Service:
        self.server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)
        return self

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{self.word} {(await reader.read(4)).decode()}".encode())
        await writer.drain()
        writer.close()

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        await self.server.wait_closed()


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = await Service("first").start()
    yield made
    await made.stop()


@pytest.fixture
async def net(tmp_path: Path, service: Service) -> AsyncIterator[Harness]:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "envs").mkdir()
    harness = harness_on(home, service.port)
    yield harness
    await harness.close()


def harness_on(home: Path, port: int) -> Harness:
    def make() -> LocalEngine:
        return local_engine(home, services={"http": port})

    return Harness(make(), make, home)


@contextlib.contextmanager
def listening() -> Iterator[tuple[int, str]]:
    """On the host: a TCP port and an abstract Unix socket."""
    name = f"tidemill-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0{name}")
        unix.listen()
        yield tcp.getsockname()[1], name


async def python(net: Harness, attempt: str, script: str, *words: object, **more: object) -> str:
    """The output of a script on the node, which must end well."""
    spec = await net.spec(attempt, "", **more)
    path = Path(spec.cwd, "script.py")
    path.write_text(script)
    await net.engine.settle_dir(str(more.get("node_id", "n-1")), attempt)
    command = " ".join(map(str, (os.path.realpath(sys.executable), "-I", path, *words)))
    await net.engine.start(str(more.get("node_id", "n-1")), replace(spec, argv=("/bin/bash", "-c", command)))
    event = await net.events.exited(attempt)
    output = await net.log(attempt, str(more.get("node_id", "n-1")))
    assert event.exit_code == 0, output
    return output


async def test_the_service_is_reached_at_its_port_on_both_loopbacks(net: Harness, service: Service) -> None:
    ready = await net.open()
    assert ready.limits["network"].enforced, ready.limits["network"].why_not
    assert await python(net, "a.1", GET, "127.0.0.1", service.port) == "first ping\n"
    assert await python(net, "b.1", GET, "localhost", service.port) == "first ping\n"
    assert await python(net, "c.1", GET, "::1", service.port) == "first ping\n"


async def test_there_is_no_way_to_anything_else(net: Harness) -> None:
    await net.open()
    with listening() as (port, name):
        said = dict(line.split() for line in (await python(net, "a.1", PROBE, port, name)).splitlines())
    assert said == {
        "169.254.169.254": "ENETUNREACH",
        "10.0.0.1": "ENETUNREACH",
        "192.0.2.1": "ENETUNREACH",
        "2001:db8::1": "ENETUNREACH",
        "127.0.0.1": "ECONNREFUSED",
        "abstract": "ECONNREFUSED",
        "raw": "EPERM",
        "routes": "0",
    }


async def test_two_nodes_do_not_see_each_other(net: Harness) -> None:
    await net.open()
    await net.open("n-2")
    listen = "import socket, time; s = socket.create_server(('127.0.0.1', 7000)); "
    listen += "print('up', flush=True); time.sleep(600)"
    await net.engine.start(
        "n-1", await net.spec("a.1", f'{os.path.realpath(sys.executable)} -I -c "{listen}"')
    )
    async with asyncio.timeout(60):
        while await net.log("a.1") != "up\n":
            await asyncio.sleep(0.02)
    look = "import socket; print(socket.socket().connect_ex(('127.0.0.1', 7000)))"
    assert await python(net, "b.1", look, node_id="n-2") == "111\n"
    assert await python(net, "c.1", look) == "0\n"  # the same node: the same network


async def test_a_gang_shares_the_network_of_its_first_node(net: Harness) -> None:
    await net.open()
    await net.open("n-2")
    space = "readlink /proc/self/ns/net"
    first = await net.spec("a.1", space)
    second = await net.spec("a.1", space, "n-2")
    await net.engine.start("n-1", first)
    await net.engine.start("n-2", replace(second, rank=1, network_of="n-1"))
    await net.events.exited("a.1", 0)
    await net.events.exited("a.1", 1)
    assert await net.log("a.1") == await net.log("a.1", "n-2")
    await net.run("b.1", space, "n-2")
    assert await net.log("b.1", "n-2") != await net.log("a.1", "n-2")  # and is back in its own


async def test_a_gang_whose_first_node_is_gone_does_not_start(net: Harness) -> None:
    await net.open()
    await net.open("n-2")
    stale = net.engine._nodes["n-1"].hello["network"]
    os.kill(net.agent_pid(), signal.SIGKILL)
    await net.events.kind("node_lost")
    spec = replace(await net.spec("a.1", "true", "n-2"), rank=1)
    link = net.engine._nodes["n-2"].link
    await link.call(
        "start", attempt="a.1", rank=1, epoch=1, argv=["/bin/true"], env={}, cwd=spec.cwd,
        log_path=spec.log_path, term_grace_s=1.0, timeout_s=None, gpu_ids=[], kind="batch", network=stale,
    )  # fmt: skip
    event = await net.events.exited("a.1", 1)
    assert event.reason == "spawn_failed"
    assert "first node is gone" in event.message


async def test_a_server_on_other_ports_is_reached_at_the_old_and_the_new(
    net: Harness, service: Service
) -> None:
    await net.open()
    await service.stop()
    moved = await Service("second").start()
    net._make = lambda: local_engine(net.home, services={"http": moved.port})
    await net.restart()
    await net.engine.held()
    await net.events.kind("node_ready")
    try:
        assert await python(net, "a.1", GET, "localhost", service.port) == "second ping\n"
        assert await python(net, "b.1", GET, "localhost", moved.port) == "second ping\n"
    finally:
        await moved.stop()
        await service.start()


async def test_a_job_waits_while_the_server_restarts(net: Harness, service: Service) -> None:
    await net.open()
    await service.stop()
    job = asyncio.create_task(python(net, "a.1", GET, "localhost", service.port))
    task = await net.events.kind("task_started")
    async with asyncio.timeout(60):
        while not connected(task.pid):  # to the relay, which holds it
            await asyncio.sleep(0.005)
    service.word = "again"
    await service.start()
    assert await job == "again ping\n"


async def test_a_relay_that_dies_comes_back(net: Harness, service: Service) -> None:
    await net.open()
    children = Path(f"/proc/{net.agent_pid()}/task/{net.agent_pid()}/children")
    (relay,) = map(int, children.read_text().split())
    os.kill(relay, signal.SIGKILL)
    assert await python(net, "a.1", GET, "localhost", service.port) == "first ping\n"
    assert children.read_text().split() != [str(relay)]


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


async def test_a_relay_goes_with_its_agent(net: Harness) -> None:
    await net.open()
    await net.open("n-2")
    relays: list[int] = []
    for node in ("n-1", "n-2"):
        agent = net.agent_pid(node)
        relays += map(int, Path(f"/proc/{agent}/task/{agent}/children").read_text().split())
    assert len(relays) == 2
    if os.geteuid() == 0:  # neither root nor a user that jobs can be
        job = json.loads((await net.events.kind("node_ready")).handle)["uid"]
        async with asyncio.timeout(60):  # the agent does not wait for it to become that user
            while f"Uid:\t{job + 65535}\t{job + 65535}" not in status_of(relays[0]):
                await asyncio.sleep(0.005)
        assert "CapEff:\t0000000000000000" in status_of(relays[0])
    os.kill(net.agent_pid(), signal.SIGKILL)
    await net.engine.close_node("n-2")
    await net.events.kind("node_closed", "n-2")
    assert not alive(relays[1])
    async with asyncio.timeout(60):
        while alive(relays[0]):
            await asyncio.sleep(0.01)


async def test_a_plain_tier_shares_the_host(tmp_path: Path, service: Service) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)

    def make() -> LocalEngine:
        return local_engine(home, services={"http": service.port}, isolation="plain")

    harness = Harness(make(), make, home)
    ready = await harness.open()
    assert not ready.limits["network"].enforced
    assert "isolation plain" in ready.limits["network"].why_not
    await harness.run("a.1", "readlink /proc/self/ns/net")
    assert (await harness.log("a.1")).strip() == os.readlink("/proc/self/ns/net")
    await harness.close()


async def test_a_job_of_the_second_node_that_is_stopped_ends(net: Harness) -> None:
    await net.open()
    await net.open("n-2")
    spec = replace(await net.spec("a.1", "sleep 600", "n-2"), rank=1, network_of="n-1")
    await net.engine.start("n-2", spec)
    await net.events.until(lambda e: e.kind == "task_started")
    await net.engine.stop("n-2", TaskKey("a.1", 1), 1, "canceled")
    assert (await net.events.exited("a.1", 1)).signal == 15


# --- the way out

BY_PROXY = """
import os, socket, sys
host, port = os.environ["https_proxy"].removeprefix("http://").split(":")
sock = socket.create_connection((host, int(port)), timeout=60)
sock.sendall(f"CONNECT {sys.argv[1]}:{sys.argv[2]} HTTP/1.1\\r\\n\\r\\n".encode())
said = sock.recv(4096).decode().splitlines()[0]
print(said)
if " 200 " in said:
    sock.sendall(b"ping")
    print(sock.recv(64).decode())
"""


async def test_what_a_compute_allows_is_reached_through_its_proxy(net: Harness, service: Service) -> None:
    outside = await Service("outside").start()
    ready = await net.open(egress=f"127.0.0.1:{outside.port}")
    assert str(outside.port) in ready.limits["network"].by
    said = await python(net, "a.1", BY_PROXY, "127.0.0.1", outside.port)
    assert said == "HTTP/1.1 200 Connected\noutside ping\n"
    said = await python(net, "b.1", BY_PROXY, "127.0.0.1", service.port)
    assert said.startswith("HTTP/1.1 403 127.0.0.1 is 127.0.0.1, which is not a public address")
    assert await python(net, "c.1", GET, "localhost", service.port) == "first ping\n"  # the service as ever
    await outside.stop()


async def test_a_closed_node_has_no_proxy(net: Harness) -> None:
    await net.open(egress="closed")
    assert (
        await python(net, "a.1", "import os; print(*[n for n in os.environ if 'proxy' in n.lower()])") == "\n"
    )
    look = "import socket; print(socket.socket().connect_ex(('127.0.0.1', 3128)))"
    assert await python(net, "b.1", look) == "111\n"
