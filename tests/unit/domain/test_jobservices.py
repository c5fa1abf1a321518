"""Services of a job: what is read, where each is placed, what starts it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.jobservices import (
    CUSTOM,
    JUPYTER,
    SSH,
    TENSORBOARD,
    TYPES,
    VSCODE,
    JobService,
    command,
    placed,
    read_services,
)


def test_as_the_sdk_writes_them() -> None:
    raw = {
        "my_ssh": {"jobServiceType": "SSH", "properties": {"sshPublicKeys": "ssh-rsa x"}},
        "lab": {"jobServiceType": "JupyterLab", "nodes": {"nodesValueType": "All"}, "endpoint": None},
        "board": {"jobServiceType": "TensorBoard", "port": 6010, "properties": {"logDir": "outputs/tb"}},
        "code": {"jobServiceType": "vs_code"},
        "own": {"jobServiceType": "custom", "port": 5000},
        "Studio": {"jobServiceType": "Studio", "endpoint": "https://localhost"},
        "Tracking": {"jobServiceType": "Tracking"},
    }
    assert read_services(raw) == (
        JobService("my_ssh", SSH),
        JobService("lab", JUPYTER, all_nodes=True),
        JobService("board", TENSORBOARD, 6010, log_dir="outputs/tb"),
        JobService("code", VSCODE),
        JobService("own", CUSTOM, 5000),
    )
    assert read_services(None) == ()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"jobServiceType": "Notebook"}, "Notebook"),
        ({"jobServiceType": "TensorBoard", "port": 80}, "1024"),
        ({"jobServiceType": "TensorBoard", "port": "6006"}, "1024"),
        ({"jobServiceType": "Custom"}, "port"),
        ({}, "port"),
    ],
)
def test_what_is_refused(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as found:
        read_services({"x": entry})
    assert str(found.value.target).startswith("properties.services.x")


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 65, "-x"])
def test_names(name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        read_services({name: {"jobServiceType": "SSH"}})


SERVICES = st.lists(
    st.builds(
        JobService,
        st.from_regex(r"[a-z]{1,3}", fullmatch=True),
        st.sampled_from(TYPES),
        st.integers(6000, 6010),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda service: service.name,
)


@given(SERVICES, st.integers(1, 4), st.sets(st.integers(6000, 6010)))
def test_no_two_share_a_port(services: list[JobService], nodes: int, taken: set[int]) -> None:
    places = placed(services, nodes, taken)
    ours = [place.port for place in places if place.service.type not in (SSH, CUSTOM)]
    assert len(ours) == len(set(ours))
    assert not set(ours) & taken
    assert not set(ours) & {place.port for place in places if place.service.type == CUSTOM}
    assert {place.node for place in places} <= set(range(nodes))
    assert len({place.log for place in places}) == len(places)


def test_names_and_folders_are_arguments_not_script() -> None:
    place = placed([JobService("x", TENSORBOARD, 6006, log_dir="$(touch /x); a b")], 1)[0]
    argv = command(place, "/work/a.1")
    assert argv[3:] == ("x", "6006", "$(touch /x); a b")
    assert "touch" not in argv[2]
    assert command(placed([JobService("s", SSH)], 1)[0], "/w") == ()
