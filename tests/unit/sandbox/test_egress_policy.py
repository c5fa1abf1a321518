"""Which addresses the jobs of a node may reach."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.sandbox import egress

PUBLIC = "93.184.215.14"
PRIVATE = (
    "127.0.0.1",
    "127.8.8.8",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fd00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
)


def refused(policy: egress.Policy, host: str, port: int, address: str = PUBLIC, own: bool = False) -> str:
    return policy.refuses_name(host, port) or policy.refuses_address(host, port, address, own)


@pytest.mark.parametrize("text", ["", "  ", "closed"])
def test_closed_reaches_nothing(text: str) -> None:
    policy = egress.parse(text)
    assert policy.closed
    assert "not on the list" in refused(policy, "pypi.org", 443)
    assert "not on the list" in refused(policy, PUBLIC, 443)


def test_the_internet_is_what_is_public() -> None:
    policy = egress.parse("internet")
    assert refused(policy, "pypi.org", 443) == ""
    assert refused(policy, PUBLIC, 22) == ""
    assert "not a public address" in refused(policy, PUBLIC, 22, own=True)


@pytest.mark.parametrize("address", PRIVATE)
@pytest.mark.parametrize("text", ["internet", "rebinds.example"])
def test_a_name_that_leads_inside_is_refused(text: str, address: str) -> None:
    assert "not a public address" in refused(egress.parse(text), "rebinds.example", 80, address)


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_inside_is_refused(address: str) -> None:
    assert "not a public address" in refused(egress.parse("internet"), address, 80, address)


def test_what_is_listed_and_nothing_beside_it() -> None:
    policy = egress.parse("pypi.org, *.pythonhosted.org:443 10.1.2.0/24:8080 [fd00::5]:443, 192.0.2.7")
    assert refused(policy, "PyPI.org.", 80) == ""
    assert refused(policy, "files.pythonhosted.org", 443) == ""
    assert refused(policy, "files.pythonhosted.org", 80)
    assert refused(policy, "pythonhosted.org", 443)
    assert refused(policy, "evilpypi.org", 443)
    assert refused(policy, "pypi.org.evil.example", 443)
    assert refused(policy, "10.1.2.9", 8080, "10.1.2.9") == ""
    assert refused(policy, "10.1.2.9", 8081, "10.1.2.9")
    assert refused(policy, "fd00::5", 443, "fd00::5", own=True) == ""
    assert refused(policy, PUBLIC, 443)


def test_a_name_inside_needs_its_address_too() -> None:
    assert refused(egress.parse("nexus.corp.example"), "nexus.corp.example", 443, "10.1.2.3")
    assert refused(egress.parse("nexus.corp.example 10.1.2.3"), "nexus.corp.example", 443, "10.1.2.3") == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("internet pypi.org", "'internet' stands alone"),
        ("pypi.org:0", "between 1 and 65535"),
        ("pypi.org:http", "between 1 and 65535"),
        ("https://pypi.org", "'https://pypi.org'"),
        ("*", "'\\*' is no entry"),
        ("*.*.org", "is no entry"),
        ("999.1.1.1", "is no entry"),
        ("a b\0c", "is no entry"),
        ("x" * 5000, "4096"),
    ],
)
def test_a_line_that_is_none_says_why(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        egress.parse(text)


def test_targets() -> None:
    assert egress.split_target("pypi.org:443") == ("pypi.org", 443)
    assert egress.split_target("[fd00::5]:80") == ("fd00::5", 80)
    assert egress.split_target("pypi.org", 80) == ("pypi.org", 80)
    for text in ("pypi.org", ":443", "a:b", "pypi.org:99999"):
        with pytest.raises(ValueError, match=re.escape(repr(text))):
            egress.split_target(text)


@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_a_sentence(text: str) -> None:
    try:
        policy = egress.parse(text)
    except ValueError:
        return
    for address in PRIVATE:
        listed = any(ipaddress.ip_address(address) in network for network, _ in policy.networks)
        assert listed or refused(policy, "any.example", 80, address)
