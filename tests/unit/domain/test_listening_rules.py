"""Where the server listens, and which Host headers are its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.listening import LOCAL_NAMES, Listening, host_of, misdirected, plan


def test_nothing_given_is_loopback_only() -> None:
    assert plan([], []) == Listening()
    assert plan(["localhost, 127.0.0.1", "::1"], ["localhost"]) == Listening()


def test_addresses_are_names_too_and_wildcards_are_not() -> None:
    assert plan(["10.1.2.3,[fd00::0005]"], ["GPU1.Example.org."]) == Listening(
        ("10.1.2.3", "fd00::5"), ("gpu1.example.org", "10.1.2.3", "fd00::5")
    )
    assert plan(["0.0.0.0,::"], ["gpu1"]).names == ("gpu1",)


@pytest.mark.parametrize(
    ("listen", "names", "said"),
    [
        ("0.0.0.0", "", "--name HOST"),
        ("", "gpu1", "--listen ADDRESS"),
        ("gpu1.example.org", "gpu1", "'gpu1.example.org' is no IP address"),
        ("10.0.0.1:8443", "gpu1", "is no IP address"),
        ("10.0.0.1", "gpu1:8443", "'gpu1:8443' is no host name"),
        ("10.0.0.1", "*.example.org", "is no host name"),
        ("10.0.0.1", "https://gpu1", "is no host name"),
    ],
)
def test_what_does_not_go_names_the_word_and_the_fix(listen: str, names: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        plan([listen], [names])
    assert said in raised.value.message


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8440", "127.0.0.1:8440", "[::1]:8440", "[0:0::1]"])
def test_loopback_names(host: str) -> None:
    assert misdirected(host, LOCAL_NAMES) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8440",
        "localhost.evil.example",
        "127.0.0.1.nip.io:1",
        "a:b:1",
        "localhost@evil.example",
        "localhost:8440:1",
        "[::1",
        "localhost evil",
    ],
)
def test_other_names_are_refused_with_the_reason(host: str) -> None:
    problem = misdirected(host, LOCAL_NAMES)
    assert problem is not None
    assert "localhost" in problem


def test_names_of_the_server_are_its_own() -> None:
    hosts = plan(["10.0.0.1"], ["gpu1.example.org"]).hosts
    for host in ("gpu1.example.org:8443", "GPU1.example.org", "10.0.0.1:8443", "localhost:1"):
        assert misdirected(host, hosts) is None
    assert misdirected("10.0.0.2:8443", hosts)


@given(st.text(max_size=40))
def test_any_header_is_a_known_name_or_refused(header: str) -> None:
    assert (misdirected(header, LOCAL_NAMES) is None) == (host_of(header) in LOCAL_NAMES)
