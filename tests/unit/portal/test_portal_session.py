"""Who gets a session, and from which address."""

from __future__ import annotations

import pytest

from tidemill.domain.errors import InvalidRequest
from tidemill.portal import words
from tidemill.portal.session import local_page


@pytest.mark.parametrize(
    "page", ["//evil.example", "https://evil.example/ui", "/uix", "/api/v1", "/ui/\\evil", "/ui/\r\nx: y"]
)
def test_a_link_leads_only_to_pages(page: str) -> None:
    with pytest.raises(InvalidRequest):
        local_page(page)


def test_pages_of_the_portal() -> None:
    assert [local_page(page) for page in ("", "/ui", "/ui?x=1", "/ui/s/g/w/jobs/j")] == [
        "/ui",
        "/ui",
        "/ui?x=1",
        "/ui/s/g/w/jobs/j",
    ]


def test_words() -> None:
    assert words.short("env:" + "0123456789abcdef" * 4 + " built") == "env:01234567… built"
    assert words.headline("It ended with exit code 1. The end of its log:\nTraceback") == (
        "It ended with exit code 1."
    )
    assert words.headline("Compute 'a' is gone.") == "Compute 'a' is gone."
    assert words.lastline("a\nValueError: b\n") == "ValueError: b"
    assert words.asset("/subscriptions/s/models/digits/versions/1") == "digits:1"
    assert words.asset("digits") == "digits"
    long = "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/d/paths/p"
    assert words.place(long) == "azureml://datastores/d/paths/p"
    assert words.place(0.25) == "0.25"
    assert words.usd(None) == "no price"
    assert words.usd(0.0000263) == "$0.000026"
    assert words.ago("2026-11-23T07:00:00.000000Z", 1_795_417_200_000_000 + 7_200_000_000) == "2 h ago"
