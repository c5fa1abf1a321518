"""The helper's socket, asked by its own server's user, by others, and in every wrong way."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asserver import in_a_child, need_dropping
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jobserver import until

from tidemill.helper.door import MOST_BYTES
from tidemill.sandbox import uids
from tidemill.server import helper_process, privileges
from tidemill.server import home as homes

VERBS = [
    "names", "config", "lives", "journal", "open", "connect", "show", "resized", "end_agent", "end_rest",
    "remove", "prune", "trim", "sweep", "leave",
]  # fmt: skip
ORDER = {
    "verb": "open", "node": "n-1", "cpu_milli": 1000, "memory": 1 << 28, "gpus": 0, "host_gpus": 0, "disk": 0,
    "gpu_ids": [], "egress": "", "services": {}, "isolation": "auto",
}  # fmt: skip
IDS = (
    "../n",
    "a/b",
    "n\0",
    "n\n",
    "",
    ".",
    "..",
    ".agent",
    "x" * 201,
    "/etc",
    7,
    None,
    True,
    ["n"],
    {"n": 1},
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With a helper, and no server."""
    root = tmp_path_factory.mktemp("helper") / "home"
    root.mkdir(mode=0o700)
    need_dropping(root)
    in_a_child(lambda: privileges.drop(root).helped)
    yield root
    helper_process.stop(root)
    assert [path for path in (root / "nodes").iterdir() if not path.name.startswith(".")] == []


def user(home: Path) -> int:
    found = uids.claimed(str(home))
    assert found is not None
    return found.first


def ask(home: Path, raw: bytes, fds: list[int] | None = None) -> dict[str, Any] | None:
    """One datagram -> the answer; None where the connection was closed without one."""
    folder = os.open(home / "helper", os.O_PATH)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.settimeout(20)
        link.connect(f"/proc/self/fd/{folder}/sock")
        os.close(folder)
        with contextlib.suppress(BrokenPipeError):  # refused already; the answer is there
            socket.send_fds(link, [raw], fds or [])
        answer, got, _, _ = socket.recv_fds(link, 1 << 20, 8)
        for fd in got:
            os.close(fd)
        return json.loads(answer) if answer else None


def by_user(home: Path, work: Callable[[], Any], uid: int = -1) -> Any:
    """As the home's user, or as another who could open the socket's file."""
    own = user(home)

    def become() -> Any:
        folder = os.open(home, os.O_PATH)  # the folders above may be closed
        os.setgroups([own])
        os.setresgid(own, own, own)
        os.setresuid(*[own if uid < 0 else uid] * 3)
        return work(Path(f"/proc/self/fd/{folder}"))

    return in_a_child(become)


def test_only_the_homes_user_is_heard(home: Path) -> None:
    question = json.dumps({"verb": "names"}).encode()
    assert by_user(home, lambda at: ask(at, question)) == {"names": []}
    for uid in (user(home) + 1, user(home) + 65536, 65534):
        answer = by_user(home, lambda at: ask(at, question), uid)
        assert answer == {"refused": "the helper serves one user, and it is not you"}
    assert ask(home, question) == {"refused": "the helper serves one user, and it is not you"}  # root


def test_ids_that_are_none(home: Path) -> None:
    def all_of_them(at: Path) -> list[Any]:
        asked = [{**ORDER, "node": node} for node in IDS]
        for verb in VERBS:
            more = {"hard": True} if verb == "end_rest" else {}
            more |= {"cpu_milli": 1, "memory": 1, "gpus": 0} if verb == "resized" else {}
            if verb not in ("open", "names", "leave", "sweep"):
                asked += [{"verb": verb, "node": node, **more} for node in IDS]
        asked += [{"verb": "sweep", "known": [node]} for node in IDS]
        return [(request, ask(at, json.dumps(request).encode())) for request in asked]

    answers = by_user(home, all_of_them)
    assert len(answers) > 150
    for request, answer in answers:
        assert answer is not None, request
        assert "refused" in answer, (request, answer)
    assert sorted(os.listdir(home / "nodes")) == []


def test_fields_that_are_wrong_or_not_asked_for(home: Path) -> None:
    wrong = [
        *({**ORDER, name: value} for name in ("cpu_milli", "disk") for value in (-1, 1.5, "1", True)),
        {**ORDER, "memory": 1 << 60}, {**ORDER, "gpu_ids": ["/dev/sda"]}, {**ORDER, "gpu_ids": "GPU"},
        {**ORDER, "egress": "x" * 9000}, {**ORDER, "egress": "a\0b"}, {**ORDER, "services": {"a b": 1}},
        {**ORDER, "services": {"http": 0}}, {**ORDER, "services": {"http": 65536}}, {**ORDER, "services": []},
        {**ORDER, "isolation": "none"}, {**ORDER, "uid": 0}, {**ORDER, "binds": ["/"]},
        {**ORDER, "argv": ["sh"]},
        {"verb": "names", "path": "/"}, {"verb": "config", "node": "n-1", "home": "/root"}, {"verb": "run"},
        {"verb": ["open"]}, {}, {"node": "n-1"}, {"verb": "end_rest", "node": "n-1", "hard": 1},
    ]  # fmt: skip
    answers = by_user(home, lambda at: [ask(at, json.dumps(request).encode()) for request in wrong])
    for request, answer in zip(wrong, answers, strict=True):
        assert answer is not None, request
        assert "refused" in answer, (request, answer)


def test_datagrams_that_are_no_request(home: Path) -> None:
    raw = [b"{", b"[]", b"null", b'"open"', b"\xff\xfe", b"[" * 60000, b"x" * (MOST_BYTES + 1), b"1e999999"]
    answers = by_user(home, lambda at: [ask(at, data) for data in raw])
    assert all(answer is not None and "refused" in answer for answer in answers), answers


def test_descriptors_that_nobody_asked_for(home: Path) -> None:
    """Refused and closed: the helper holds no more than before."""

    def held() -> list[int]:
        pids = (home / "helper" / "lock").read_text().split()
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]

    def send(at: Path) -> list[Any]:
        question = json.dumps({"verb": "names"}).encode()
        return [ask(at, question, [0] * count) for count in (1, 3, 60, 250)]

    before = held()
    for answer in by_user(home, send):
        assert "descriptors" in answer["refused"]
    # It closes its end a moment after it has answered.
    until(lambda: all(now <= were for now, were in zip(held(), before, strict=True)), what="as few as before")


def test_whoever_says_nothing_holds_nobody_up_for_long(home: Path) -> None:
    def silent(at: Path) -> Any:
        folder = os.open(at / "helper", os.O_PATH)
        links = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        for link in links:
            link.connect(f"/proc/self/fd/{folder}/sock")
        return ask(at, json.dumps({"verb": "names"}).encode())

    assert by_user(home, silent) == {"names": []}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ["verb", *(name for name in ORDER if name != "verb"), "hard", "known", "path", "uid"]
SAFE = [verb for verb in VERBS if verb not in ("leave", "open")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*SAFE, *SAFE, "open"]) | st.text(string.printable, max_size=8),
            st.dictionaries(st.sampled_from(FIELDS[1:]) | st.text(max_size=6), JSON, max_size=6),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_it_answers_whatever_comes(home: Path, asked: list[tuple[str, dict[str, Any]]]) -> None:
    """Every request is answered by the same process, and none makes a node."""
    pids = (home / "helper" / "lock").read_text()
    requests = [json.dumps({**fields, "verb": verb}).encode()[:MOST_BYTES] for verb, fields in asked]
    answers = by_user(home, lambda at: [ask(at, request) for request in requests])
    assert all(isinstance(answer, dict) for answer in answers)
    assert (home / "helper" / "lock").read_text() == pids
    assert sorted(os.listdir(home / "nodes")) == []
    assert homes.Home(home).root.stat().st_uid == 0
