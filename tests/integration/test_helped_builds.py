"""Builds of a server that gave root up: what they run as, that nothing is left of them, and what the helper
refuses to do for whoever took the server over."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from asserver import in_a_child, need_dropping
from sourcepackages import source

from tidemill.engines.helped import HelperHost, Refused
from tidemill.environments import helped
from tidemill.environments.box import GROUPS, Confinement
from tidemill.environments.builder import EnvironmentBuilder
from tidemill.environments.spec import EnvironmentSpec
from tidemill.environments.tree import remove_tree
from tidemill.sandbox import cgroups, uids
from tidemill.server import helper_process, privileges


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """home/, wheels/, uv.toml, below a folder that others may enter."""
    folder = Path(tempfile.mkdtemp(prefix="tidemill-helped-"))
    folder.chmod(0o755)
    (folder / "home").mkdir(mode=0o700)
    need_dropping(folder / "home")
    (folder / "wheels").mkdir()
    (folder / "uv.toml").write_text(f'no-index = true\nfind-links = ["{folder}/wheels"]\n')
    yield folder
    helper_process.stop(folder / "home")
    remove_tree(folder)


@pytest.fixture
def as_server(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Work done by the home's server, in a process that has just given root up; its pid is kept in pids."""
    for key in [key for key in os.environ if key.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("UV_CONFIG_FILE", str(place / "uv.toml"))

    def dropped(work: Callable[[], Any]) -> Any:
        def become() -> Any:
            with open(place / "pids", "a") as pids:
                print(os.getpid(), file=pids)
            assert privileges.drop(place / "home").helped
            assert os.geteuid() != 0
            return work()

        return in_a_child(become)

    return dropped


def server(place: Path) -> int:
    found = uids.claimed(str(place / "home"))
    assert found is not None
    return found.first


def builder(place: Path) -> EnvironmentBuilder:
    home = place / "home"
    rules = Confinement(helper=HelperHost(home))
    return EnvironmentBuilder(
        home / "envs",
        lambda: time.time_ns() // 1000,
        allow_download=False,
        cache_dir=home / "envs" / ".cache",
        confinement=rules,
    )


def build(place: Path, name: str) -> Path:
    return asyncio.run(builder(place).ensure(EnvironmentSpec(pip=(name,)), lambda _: None)).path


def processes_with(mark: str) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def until(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.02)
    return seen


def nothing_is_left(place: Path) -> bool:
    """Of this home's builds; other tests' builds run beside them."""
    ours = set((place / "pids").read_text().split())
    groups = [path for path in cgroups.stale(GROUPS) if path.rpartition("-")[2] in ours]
    return not list((place / "home" / "envs").glob(".tmp-*")) and not groups


def test_a_build_has_a_user_of_its_own(place: Path, as_server: Callable[..., Any]) -> None:
    mark = f"own-{os.getpid()}"
    source(
        place / "wheels",
        "tmown",
        f"""
def attack():
    os.makedirs("deep/" * 40)
    child = subprocess.Popen(["sh", "-c", "until rm seen 2> /dev/null; do sleep 0.05; done; : {mark}"],
                             start_new_session=True)
    child.wait()
    tried = {{}}
    for name in ("secrets", "db", "envs"):
        try:
            tried[name] = sorted(os.listdir({str(place / "home")!r} + "/" + name))
        except OSError as error:
            tried[name] = type(error).__name__
    return dict(uid=os.getuid(), tried=tried)
""",
    )
    seen: list[int] = []

    def watch() -> None:
        while not seen and not done.wait(0.01):
            for process in processes_with(mark):
                seen.append(os.stat(f"/proc/{process}").st_uid)
                Path(f"/proc/{process}/cwd/seen").touch()  # it has waited for that

    done = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        as_server(lambda: str(build(place, "tmown")))
    finally:
        done.set()
        watcher.join()
    assert seen
    assert not {0, server(place)} & set(seen), "it is neither root nor the server"
    assert all(uids.FIRST <= uid < uids.FIRST + uids.SIZE * uids.RANGES for uid in seen)
    [found] = (place / "home" / "envs").glob("*/lib/*/site-packages/tmown/found.json")
    said = json.loads(found.read_text())
    assert said["uid"] == 65534
    assert said["tried"]["secrets"] == said["tried"]["db"] == "FileNotFoundError"
    assert all(name.startswith((".tmp-", ".python")) for name in said["tried"]["envs"])
    built = found.parents[4]
    assert {path.lstat().st_uid for path in (built, *built.rglob("*"))} == {server(place)}
    assert nothing_is_left(place)


@pytest.mark.kill
def test_a_killed_server_takes_its_build_with_it(place: Path, as_server: Callable[..., Any]) -> None:
    mark = f"orphan-{os.getpid()}"
    source(
        place / "wheels",
        "tmorphan",
        f"""
def attack():
    subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 600; : {mark}"], start_new_session=True).wait()
""",
    )

    def never() -> None:
        (place / "home" / "db" / "pid").write_text(str(os.getpid()))
        build(place, "tmorphan")

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(as_server, never)
        until(lambda: processes_with(mark) or (work.done() and work.result()))
        os.kill(int((place / "home" / "db" / "pid").read_text()), signal.SIGKILL)
        with pytest.raises(json.JSONDecodeError):  # it said nothing more
            work.result()
    until(lambda: not processes_with(mark))
    assert list((place / "home" / "envs").glob(".tmp-*")), "its folder is there, for the next start"
    assert until(lambda: as_server(lambda: builder(place).sweep())) == 1
    until(lambda: nothing_is_left(place))


def test_a_cancelled_build_is_gone_when_that_is_said(place: Path, as_server: Callable[..., Any]) -> None:
    mark = f"hang-{os.getpid()}"
    source(
        place / "wheels",
        "tmhang",
        f"""
def attack():
    subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 600; : {mark}"], start_new_session=True).wait()
""",
    )

    async def cancelled() -> list[int]:
        work = asyncio.create_task(builder(place).ensure(EnvironmentSpec(pip=("tmhang",)), lambda _: None))
        while not processes_with(mark):
            assert not work.done(), work.exception()
            await asyncio.sleep(0.02)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return processes_with(mark)

    assert as_server(lambda: asyncio.run(cancelled())) == []
    assert nothing_is_left(place)


ORDER: dict[str, Any] = {
    "place": "envs", "name": ".tmp-" + "a" * 40 + "-1", "image": "", "argv": ["/usr/bin/id"], "env": {},
    "egress": "none", "own": [], "memory": 1 << 30, "builds": False, "keeps": False, "most_bytes": 0,
}  # fmt: skip


def test_what_somebody_gets_who_took_the_server_over(place: Path, as_server: Callable[..., Any]) -> None:
    """A command of theirs runs as the build's user, among no files but the build's."""
    (place / "shadow").write_text("root's")
    (place / "shadow").chmod(0o600)
    folder = place / "home" / "envs" / ORDER["name"]

    def attack() -> dict[str, Any]:
        host = HelperHost(place / "home")
        folder.mkdir(mode=0o700)
        os.symlink(place / "shadow", folder / "link")
        (folder / "own").write_text("x")
        script = f"id -u; cat {place}/shadow {place}/home/secrets/* ; ls {place}; echo y > {folder}/new"
        order = {**ORDER, "argv": ["/bin/sh", "-c", script]}
        ended, said = asyncio.run(helped.run(host, order, lambda _: None))
        owners = {path.name: path.lstat().st_uid for path in folder.iterdir()}
        shutil.rmtree(folder)
        return {"ended": ended, "said": said, "owners": owners}

    found = as_server(attack)
    lines = found["said"].splitlines()
    assert uids.FIRST <= int(lines[0]) < uids.FIRST + uids.SIZE * uids.RANGES
    assert int(lines[0]) != server(place)
    assert "root's" not in found["said"]
    assert set(found["owners"].values()) == {server(place)}
    assert (place / "shadow").stat().st_uid == 0


def test_what_the_helper_refuses(place: Path, as_server: Callable[..., Any]) -> None:
    wrong: list[dict[str, Any]] = [
        {"place": "secrets"}, {"place": "../envs"}, {"name": ".tmp-../../x-1"}, {"name": "a" * 40},
        {"name": ".tmp-" + "b" * 40 + "-1"}, {"image": "../secrets"}, {"argv": []}, {"argv": "id"},
        {"argv": ["a\0b"]}, {"env": {"A=B": "c"}}, {"env": []}, {"own": [["h"]]}, {"own": [["h", 0]]},
        {"memory": 0}, {"memory": -1}, {"builds": 1}, {"most_bytes": "7"}, {"uid": 0}, {"binds": ["/"]},
    ]  # fmt: skip

    def attack() -> list[str]:
        host = HelperHost(place / "home")
        link = place / "home" / "envs" / (".tmp-" + "c" * 40 + "-1")
        link.symlink_to("/etc")
        said: list[str] = []
        for change in [*wrong, {"name": link.name}]:
            try:
                heard, end = host.start_build({**ORDER, **change})
                said.append(f"done: {change}")
                os.close(heard)
                socket.socket(fileno=end).close()
            except Refused as error:
                said.append(f"refused: {error}")
        link.unlink()
        return said

    said = as_server(attack)
    assert len(said) == len(wrong) + 1
    assert [line for line in said if not line.startswith("refused")] == []
    assert os.stat("/etc").st_uid == 0
