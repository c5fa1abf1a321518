"""Listing against a naive model, and addresses there and back."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.data import blobrows
from tidemill.data.blobstore import BlobStore
from tidemill.data.bloburls import blob_url, resolve_blob_url

ACCOUNT, CONTAINER = "tm01", "box"
segments = st.text(alphabet="ab-0é\U0001f680￿", min_size=1, max_size=3)
paths = st.lists(segments, min_size=1, max_size=3).map("/".join)


def flat(names: set[str]) -> set[str]:
    """Without names that would be folders of others: the store refuses those."""
    return {name for name in names if not any(other.startswith(name + "/") for other in names)}


def naive(names: set[str], prefix: str, delimiter: str) -> list[str]:
    found = set()
    for name in names:
        if name.startswith(prefix):
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            found.add(name if cut < 0 else name[: cut + len(delimiter)])
    return sorted(found, key=str.encode)


@settings(max_examples=60, deadline=None)
@given(
    names=st.sets(paths, max_size=25).map(flat),
    prefix=st.one_of(st.just(""), paths, paths.map(lambda p: p + "/")),
    delimiter=st.sampled_from(["", "/", "-"]),
    limit=st.integers(1, 7),
)
def test_pages_together_are_the_whole_list(names: set[str], prefix: str, delimiter: str, limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = BlobStore(Path(folder), lambda: 1_700_000_000_000_000)
        store.ensure_container(ACCOUNT, CONTAINER)
        for name in sorted(names):
            store.put_bytes(ACCOUNT, CONTAINER, name, b"")
        seen: list[str] = []
        marker = ""
        while True:
            page = store.list(ACCOUNT, CONTAINER, prefix, delimiter, marker, limit)
            shown = sorted([*(info.name for info in page.blobs), *page.prefixes], key=str.encode)
            assert len(shown) <= limit
            seen += shown
            marker = page.next_marker
            if not marker:
                break
        store.close()
    assert seen == naive(names, prefix, delimiter)


@given(st.text(max_size=4), st.text(max_size=8))
def test_after_is_above_everything_with_the_prefix(prefix: str, rest: str) -> None:
    try:
        (prefix + rest).encode()
    except UnicodeEncodeError:
        return
    end = blobrows.after(prefix)
    if end is not None:
        assert prefix + rest < end
        assert not end.startswith(prefix) or not prefix


@given(st.from_regex(r"\A[a-z0-9]{3,24}\Z"), st.from_regex(r"\A[a-z0-9]{3,20}\Z"), paths)
def test_addresses_there_and_back(account: str, container: str, name: str) -> None:
    url = blob_url("https://localhost:8445", account, container, name)
    assert resolve_blob_url(url) == (account, container, name)
    assert resolve_blob_url(f"{url}?sv=1&sig=x%2F") == (account, container, name)


def test_other_forms_of_addresses() -> None:
    assert resolve_blob_url("https://localhost:8445/azureml-blobstore/LocalUpload/h/ctx/") == (
        None,
        "azureml-blobstore",
        "LocalUpload/h/ctx/",
    )
    assert resolve_blob_url("https://tm01.blob.core.windows.net/c/a%20b") == ("tm01", "c", "a b")
    assert resolve_blob_url("/tm01.blob.core.windows.net/c") == ("tm01", "c", "")
    assert resolve_blob_url("https://localhost:8445/tm01.dfs.core.windows.net/c/d") == ("tm01", "c", "d")
