"""Ranges, conditions, signatures: the pure parts of the blob protocol."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.identity.storage_keys import StorageKeys
from tidemill.wire.blob import xml
from tidemill.wire.blob.auth import shared_key_strings
from tidemill.wire.blob.call import parse_query
from tidemill.wire.blob.errors import StorageError
from tidemill.wire.blob.headers import Conditions, http_date, parse_metadata, parse_range
from tidemill.wire.blob.sas import Need, Place, make_sas, verify_sas

NOW = 1_795_415_224_000_000
KEY = base64.b64encode(bytes(range(64))).decode()


class TestRanges:
    @given(st.integers(1, 100), st.integers(0, 99), st.integers(0, 200))
    def test_a_range_is_what_slicing_gives(self, size: int, first: int, more: int) -> None:
        data = bytes(index % 256 for index in range(size))
        headers = {"x-ms-range": f"bytes={first}-{first + more}"}
        if first >= size:
            with pytest.raises(StorageError) as error:
                parse_range(headers, size)
            assert error.value.status == 416
            return
        part = parse_range(headers, size)
        assert part is not None
        assert data[part[0] : part[0] + part[1]] == data[first : first + more + 1]

    @pytest.mark.parametrize("text", ["", "bytes=-5", "bytes=5-2", "items=0-1", "bytes=0-1,3-4", "bytes=a-b"])
    def test_forms_that_are_ignored(self, text: str) -> None:
        assert parse_range({"range": text}, 10) is None

    def test_an_empty_blob_has_no_ranges(self) -> None:
        with pytest.raises(StorageError):
            parse_range({"range": "bytes=0-"}, 0)

    def test_the_service_header_wins(self) -> None:
        assert parse_range({"range": "bytes=0-1", "x-ms-range": "bytes=4-"}, 10) == (4, 6)


class TestConditions:
    def status(self, headers: dict[str, str], etag: str | None, write: bool, at: int = NOW) -> int:
        conditions = Conditions.of(headers)
        try:
            if write:
                conditions.check_write(etag, at)
            elif etag is not None:
                conditions.check_read(etag, at)
        except StorageError as error:
            return error.status
        return 200

    @pytest.mark.parametrize(
        ("headers", "etag", "read", "write"),
        [
            ({}, "e", 200, 200),
            ({"if-match": '"e"'}, "e", 200, 200),
            ({"if-match": "e"}, "e", 200, 200),
            ({"if-match": '"a", "e"'}, "e", 200, 200),
            ({"if-match": "*"}, "e", 200, 200),
            ({"if-match": '"x"'}, "e", 412, 412),
            ({"if-match": '"x"'}, None, 200, 412),
            ({"if-match": "*"}, None, 200, 412),
            ({"if-none-match": '"e"'}, "e", 304, 412),
            ({"if-none-match": '"x"'}, "e", 200, 200),
            ({"if-none-match": "*"}, "e", 304, 409),
            ({"if-none-match": "*"}, None, 200, 200),
            ({"if-modified-since": http_date(NOW)}, "e", 304, 412),
            ({"if-modified-since": http_date(NOW - 1_000_000)}, "e", 200, 200),
            ({"if-unmodified-since": http_date(NOW)}, "e", 200, 200),
            ({"if-unmodified-since": http_date(NOW - 1_000_000)}, "e", 412, 412),
        ],
    )
    def test_table(self, headers: dict[str, str], etag: str | None, read: int, write: int) -> None:
        assert self.status(headers, etag, write=False) == read
        assert self.status(headers, etag, write=True) == write

    def test_a_date_that_is_none(self) -> None:
        with pytest.raises(StorageError) as error:
            Conditions.of({"if-modified-since": "yesterday"})
        assert error.value.code == "InvalidHeaderValue"


class TestSharedKey:
    def test_the_example_of_the_protocol(self) -> None:
        """The string that Azure's documentation gives for a Get Container Metadata."""
        headers = {"x-ms-date": "Fri, 26 Jun 2015 23:39:12 GMT", "x-ms-version": "2015-02-21"}
        (text, *_) = shared_key_strings(
            "GET", headers, "myaccount", "/mycontainer", "comp=metadata&restype=container&timeout=20"
        )
        assert text == (
            "GET\n\n\n\n\n\n\n\n\n\n\n\n"
            "x-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n"
            "/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
        )

    def test_values_are_decoded_and_repeated_ones_joined(self) -> None:
        (text, *_) = shared_key_strings("GET", {}, "a", "/a/c/b%20c", "include=b&include=a&Prefix=x%2Fy")
        assert text.endswith("/a/a/c/b%20c\ninclude:a,b\nprefix:x/y")

    def test_names_sort_like_words(self) -> None:
        headers = {"x-ms-meta-a_b": "1", "x-ms-meta-a1": "2", "x-ms-meta-ab": "3"}
        first, second = shared_key_strings("GET", headers, "a", "/a", "")[:3:2]
        assert first.index("a_b") < first.index("a1") < first.index("ab")
        assert second.index("a1") < second.index("a_b") < second.index("ab")

    def test_a_length_of_zero_is_left_out(self) -> None:
        (text, *_) = shared_key_strings("PUT", {"content-length": "0"}, "a", "/a", "")
        assert text.startswith("PUT\n\n\n\n")


class TestSas:
    place = Place("tm01", ("tm01", "tm01.blob.core.windows.net"), "box", "a/b", "127.0.0.1", True)
    read = Need("r", "o")

    def check(self, sas: str, place: Place | None = None, need: Need | None = None, now: int = NOW) -> str:
        try:
            keys = (b"somebody else's", base64.b64decode(KEY))
            granted, key = verify_sas(keys, parse_query(sas), place or self.place, need or self.read, now)
            assert key == keys[1]
        except StorageError as error:
            return error.code
        return "".join(sorted(granted))

    def test_what_is_made_is_accepted_until_it_expires(self) -> None:
        sas = make_sas(KEY, "tm01", "box", "a/b", "r", NOW + 60_000_000)
        assert self.check(sas) == "r"
        assert self.check(sas, now=NOW + 60_000_000) == "AuthenticationFailed"

    def test_a_container_sas_opens_its_blobs(self) -> None:
        sas = make_sas(KEY, "tm01", "box", None, "rl", NOW + 60_000_000)
        assert self.check(sas) == "lr"
        assert self.check(sas, need=Need("d", "o")) == "AuthorizationPermissionMismatch"
        assert self.check(sas, need=Need("r", "c", service=False)) == "AuthorizationPermissionMismatch"

    @given(st.integers(0, 10_000), st.characters(codec="ascii", categories=["L", "N"]))
    def test_any_change_breaks_it(self, at: int, other: str) -> None:
        sas = make_sas(KEY, "tm01", "box", "a/b", "r", NOW + 60_000_000)
        at %= len(sas)
        changed = sas[:at] + other + sas[at + 1 :]
        if parse_query(changed) != parse_query(sas):
            assert self.check(changed) in ("AuthenticationFailed", "AuthorizationPermissionMismatch")

    def test_protocol_and_address(self) -> None:
        sas = make_sas(KEY, "tm01", "box", "a/b", "r", NOW + 60_000_000, protocol="https")
        plain = Place("tm01", ("tm01",), "box", "a/b", "127.0.0.1", secure=False)
        assert self.check(sas, place=plain) == "AuthorizationProtocolMismatch"

    def test_another_blob_or_key(self) -> None:
        sas = make_sas(KEY, "tm01", "box", "a/b", "r", NOW + 60_000_000)
        assert self.check(sas, place=Place("tm01", ("tm01",), "box", "a/c")) == "AuthenticationFailed"
        other = make_sas(base64.b64encode(b"k" * 64).decode(), "tm01", "box", "a/b", "r", NOW + 60_000_000)
        assert self.check(other) == "AuthenticationFailed"


class TestXml:
    def test_block_lists(self) -> None:
        body = b"<?xml version='1.0'?><BlockList><Latest>AA==</Latest><Committed>BB==</Committed></BlockList>"
        assert [(ref.id, ref.source) for ref in xml.parse_block_list(body)] == [
            ("AA==", "Latest"),
            ("BB==", "Committed"),
        ]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<BlockList>",
            b"<Other/>",
            b"<BlockList><Oldest>x</Oldest></BlockList>",
            b'<!DOCTYPE x [<!ENTITY a "aaaa">]><BlockList><Latest>&a;</Latest></BlockList>',
        ],
    )
    def test_what_is_no_block_list(self, body: bytes) -> None:
        with pytest.raises(StorageError) as error:
            xml.parse_block_list(body)
        assert error.value.code == "InvalidXmlDocument"

    @given(st.text().filter(lambda text: text.encode("utf-8", "ignore").decode() == text))
    def test_markers(self, marker: str) -> None:
        assert xml.decode_marker(xml.encode_marker(marker)) == marker

    @given(st.text())
    def test_every_text_makes_xml_that_parses(self, text: str) -> None:
        from xml.etree import ElementTree

        ElementTree.fromstring(xml.error("Code", text, {"More": text}))


def test_metadata_rules() -> None:
    assert parse_metadata({"x-ms-meta-a_1": " v ", "other": "x"}) == {"a_1": "v"}
    for headers, code in (
        ({"x-ms-meta-1a": ""}, "InvalidMetadata"),
        ({"x-ms-meta-": ""}, "EmptyMetadataKey"),
        ({"x-ms-meta-a": "v" * 9000}, "MetadataTooLarge"),
    ):
        with pytest.raises(StorageError) as error:
            parse_metadata(headers)
        assert error.value.code == code


def test_keys_differ_by_account_holder_and_master() -> None:
    keys = StorageKeys(b"m" * 64)
    raw = hmac.digest(b"m" * 64, b"storage:a\nh", hashlib.sha512)
    assert keys.key("a", "h") == base64.b64encode(raw).decode()
    other = StorageKeys(b"n" * 64)
    assert len({keys.key("a", "h"), keys.key("b", "h"), keys.key("a", "i"), other.key("a", "h")}) == 4
    with pytest.raises(ValueError, match="8 bytes"):
        StorageKeys(b"12345678")
