"""The blob protocol through the unmodified azure-storage-blob client. The same tests run against Azurite:
what both do is what the client needs; what only Tidemill does says so."""

# ruff: noqa: F811 - fixtures are imported, and named again where they are used

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import os
from pathlib import Path

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import (
    BlobBlock,
    BlobPrefix,
    BlobServiceClient,
    ContainerClient,
    ContentSettings,
)
from blob_backends import (
    Backend,
)
from blob_client import (  # noqa: F401
    MIB,
    backend,
    blob_sas,
    code,
    container,
    hours,
    names,
    ours,
    service,
)

pytestmark = pytest.mark.timeout(600)  # the first to need Azurite installs it


class TestBytes:
    @pytest.mark.parametrize("size", [0, 1, 70_000, 2 * MIB, 5 * MIB + 17])
    def test_what_goes_up_comes_down(self, container: ContainerClient, size: int) -> None:
        data = os.urandom(size)
        one = container.upload_blob("dir/file.bin", data)
        assert one.download_blob().readall() == data
        properties = one.get_blob_properties()
        assert properties.size == size
        assert properties.blob_type == "BlockBlob"
        if size <= 2 * MIB:
            assert bytes(properties.content_settings.content_md5) == hashlib.md5(data).digest()

    def test_many_blocks_in_parallel_keep_their_order(self, container: ContainerClient) -> None:
        data = os.urandom(9 * MIB + 5)
        one = container.upload_blob("big", data, max_concurrency=4, validate_content=True)
        committed, waiting = one.get_block_list("all")
        assert len(committed) == 10
        assert waiting == []
        assert one.download_blob(max_concurrency=4, validate_content=True).readall() == data

    def test_ranges(self, container: ContainerClient) -> None:
        data = bytes(range(256)) * 40
        one = container.upload_blob("r", data)
        assert one.download_blob(offset=100, length=50).readall() == data[100:150]
        assert one.download_blob(offset=10_000).readall() == data[10_000:]
        assert one.download_blob(offset=0, length=99_999).readall() == data
        assert one.download_blob(offset=5, length=10, validate_content=True).readall() == data[5:15]
        with pytest.raises(HttpResponseError) as error:
            one.download_blob(offset=20_000, length=5).readall()
        assert error.value.status_code == 416
        assert code(error) == "InvalidRange"

    def test_streaming_from_and_to_files(self, container: ContainerClient, tmp_path: Path) -> None:
        source, target = tmp_path / "in", tmp_path / "out"
        source.write_bytes(os.urandom(3 * MIB))
        with source.open("rb") as file:
            one = container.upload_blob("f", file)
        with target.open("wb") as file:
            one.download_blob().readinto(file)
        assert target.read_bytes() == source.read_bytes()

    def test_overwriting(self, container: ContainerClient) -> None:
        one = container.upload_blob("x", b"first")
        before = one.get_blob_properties()
        with pytest.raises(ResourceExistsError) as error:
            container.upload_blob("x", b"second")
        assert code(error) == "BlobAlreadyExists"
        container.upload_blob("x", b"third one", overwrite=True)
        assert one.download_blob().readall() == b"third one"
        assert one.get_blob_properties().etag != before.etag

    def test_md5_is_checked(self, backend: Backend, container: ContainerClient) -> None:
        one = container.get_blob_client("m")
        good = bytearray(hashlib.md5(b"data").digest())
        one.upload_blob(b"data", validate_content=True, content_settings=ContentSettings(content_md5=good))
        assert one.get_blob_properties().content_settings.content_md5 == good
        with pytest.raises(HttpResponseError) as error:
            one.stage_block(
                base64.b64encode(b"1").decode(),
                b"data",
                headers={"Content-MD5": base64.b64encode(b"0" * 16).decode()},
            )
        assert error.value.status_code == 400
        assert code(error) == ("Md5Mismatch" if backend.name == "tidemill" else "InvalidOperation")
        assert one.download_blob().readall() == b"data"


class TestBlocks:
    def test_stage_commit_and_recommit(self, container: ContainerClient) -> None:
        one = container.get_blob_client("blocks")
        for name in "abc":
            one.stage_block(name * 4, name.encode() * 10)
        assert names(container) == []
        assert names(container, include=["uncommittedblobs"]) == ["blocks"]
        _, waiting = one.get_block_list("all")
        assert sorted((block.id, block.size) for block in waiting) == [
            ("aaaa", 10),
            ("bbbb", 10),
            ("cccc", 10),
        ]
        one.commit_block_list([BlobBlock("cccc"), BlobBlock("aaaa")])
        assert one.download_blob().readall() == b"c" * 10 + b"a" * 10
        committed, waiting = one.get_block_list("all")
        assert [block.id for block in committed] == ["cccc", "aaaa"]
        assert waiting == []
        one.stage_block("dddd", b"new")
        one.commit_block_list([BlobBlock("aaaa"), BlobBlock("dddd")])
        assert one.download_blob().readall() == b"a" * 10 + b"new"

    def test_a_block_that_was_never_staged(self, container: ContainerClient) -> None:
        one = container.get_blob_client("blocks")
        one.stage_block("aaaa", b"1")
        with pytest.raises(HttpResponseError) as error:
            one.commit_block_list([BlobBlock("aaaa"), BlobBlock("zzzz")])
        assert code(error) == "InvalidBlockList"
        assert not one.exists()

    def test_an_empty_list_makes_an_empty_blob(self, container: ContainerClient) -> None:
        one = container.get_blob_client("empty")
        one.commit_block_list([])
        assert one.get_blob_properties().size == 0


class TestAppend:
    def test_appends_accumulate(self, container: ContainerClient) -> None:
        one = container.get_blob_client("log")
        one.create_append_blob()
        first = one.append_block(b"one\n")
        second = one.append_block(b"two\n")
        assert (first["blob_append_offset"], second["blob_append_offset"]) == ("0", "4")
        assert one.download_blob().readall() == b"one\ntwo\n"
        properties = one.get_blob_properties()
        assert properties.blob_type == "AppendBlob"
        assert properties.append_blob_committed_block_count == 2
        with pytest.raises(HttpResponseError) as error:
            one.append_block(b"x", appendpos_condition=3)
        assert code(error) == "AppendPositionConditionNotMet"


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            "plain",
            "with space and +plus&amp;",
            "ünïcødé/日本語/файл.txt",
            "emoji-🚀",
            "per%cent%20encoded",
            "quote'double\"<angle>",
            "question?hash#at@",
            "dots..in/.name./x",
            "long/" + "n" * 300,
            "trailing/slash/",
            "tilde~(brackets)[x]{y}",
        ],
    )
    def test_odd_names(self, container: ContainerClient, name: str) -> None:
        container.upload_blob(name, name.encode())
        assert container.get_blob_client(name).download_blob().readall() == name.encode()
        assert names(container) == [name]
        assert names(container, name_starts_with=name[:3]) == [name]
        container.delete_blob(name)
        assert names(container) == []

    def test_a_file_beside_a_folder_is_refused(self, ours: Backend, container: ContainerClient) -> None:
        container.upload_blob("a/b", b"")
        with pytest.raises(ResourceExistsError) as error:
            container.upload_blob("a", b"")
        assert code(error) == "PathConflict"
        with pytest.raises(ResourceExistsError):
            container.upload_blob("a/b/c", b"")
        container.upload_blob("a/b0", b"")
        container.upload_blob("ab", b"")


class TestLists:
    def test_prefix_delimiter_and_pages(self, container: ContainerClient) -> None:
        wanted = sorted(f"{folder}/{index:02}" for folder in ("a", "b/c", "d") for index in range(7))
        for name in (*wanted, "top"):
            container.upload_blob(name, b"x")
        assert names(container) == [*wanted, "top"]
        pages = [[item.name for item in page] for page in container.list_blobs(results_per_page=5).by_page()]
        assert [len(page) for page in pages] == [5, 5, 5, 5, 2]
        assert [name for page in pages for name in page] == [*wanted, "top"]
        assert names(container, name_starts_with="b/") == [f"b/c/{index:02}" for index in range(7)]
        walked = list(container.walk_blobs())
        assert [(item.name, isinstance(item, BlobPrefix)) for item in walked] == [
            ("a/", True),
            ("b/", True),
            ("d/", True),
            ("top", False),
        ]
        assert [item.name for item in container.walk_blobs(name_starts_with="b/")] == ["b/c/"]

    def test_metadata_and_properties_in_a_list(self, container: ContainerClient) -> None:
        container.upload_blob("m", b"12345", metadata={"name": "code1", "version": "7"})
        plain = next(iter(container.list_blobs()))
        assert not plain.metadata
        full = next(iter(container.list_blobs(include=["metadata"])))
        assert full.metadata == {"name": "code1", "version": "7"}
        assert full.size == 5
        assert bytes(full.content_settings.content_md5) == hashlib.md5(b"12345").digest()
        assert full.etag.strip('"') == container.get_blob_client("m").get_blob_properties().etag.strip('"')

    def test_containers(self, service: BlobServiceClient, container: ContainerClient) -> None:
        name = container.container_name
        container.set_container_metadata({"purpose": "test"})
        found = list(service.list_containers(name_starts_with=name, include_metadata=True))
        assert [(item.name, item.metadata) for item in found] == [(name, {"purpose": "test"})]
        assert container.get_container_properties().metadata == {"purpose": "test"}
        with pytest.raises(ResourceExistsError) as error:
            service.create_container(name)
        assert code(error) == "ContainerAlreadyExists"
        service.delete_container(name)
        assert not container.exists()
        with pytest.raises(ResourceNotFoundError) as missing:
            names(container)
        assert code(missing) == "ContainerNotFound"


class TestProperties:
    def test_metadata_and_headers(self, container: ContainerClient) -> None:
        one = container.upload_blob(
            "p",
            b"x",
            metadata={"upload_status": "started"},
            content_settings=ContentSettings(content_type="text/csv", cache_control="no-store"),
        )
        before = one.get_blob_properties()
        assert before.content_settings.content_type == "text/csv"
        assert before.content_settings.cache_control == "no-store"
        one.set_blob_metadata({"name": "n", "version": "1", "upload_status": "completed"})
        after = one.get_blob_properties()
        assert after.metadata == {"name": "n", "version": "1", "upload_status": "completed"}
        assert after.etag != before.etag
        assert one.download_blob().readall() == b"x"
        one.set_http_headers(ContentSettings(content_type="text/plain", content_language="en"))
        last = one.get_blob_properties().content_settings
        assert (last.content_type, last.content_language, last.cache_control) == ("text/plain", "en", None)

    def test_account_information(self, service: BlobServiceClient) -> None:
        assert service.get_account_information()["account_kind"] == "StorageV2"
        assert service.get_service_properties()["cors"] == []


class TestConditions:
    def test_reads(self, container: ContainerClient) -> None:
        one = container.upload_blob("c", b"v1")
        properties = one.get_blob_properties()
        same = {"etag": properties.etag, "match_condition": MatchConditions.IfNotModified}
        other = {"etag": '"0x1"', "match_condition": MatchConditions.IfNotModified}
        assert one.download_blob(**same).readall() == b"v1"
        with pytest.raises(ResourceModifiedError) as error:
            one.download_blob(**other)
        assert error.value.status_code == 412
        with pytest.raises(HttpResponseError) as not_modified:
            one.download_blob(etag=properties.etag, match_condition=MatchConditions.IfModified)
        assert not_modified.value.status_code == 304
        with pytest.raises(HttpResponseError) as unchanged:
            one.get_blob_properties(if_modified_since=properties.last_modified + dt.timedelta(seconds=1))
        assert unchanged.value.status_code == 304
        with pytest.raises(HttpResponseError) as changed:
            one.get_blob_properties(if_unmodified_since=properties.last_modified - dt.timedelta(hours=1))
        assert changed.value.status_code == 412

    def test_writes(self, container: ContainerClient) -> None:
        one = container.upload_blob("c", b"v1")
        old = one.get_blob_properties().etag
        one.upload_blob(b"v2", overwrite=True, etag=old, match_condition=MatchConditions.IfNotModified)
        for stale in (
            lambda: one.upload_blob(
                b"v3", overwrite=True, etag=old, match_condition=MatchConditions.IfNotModified
            ),
            lambda: one.set_blob_metadata(
                {"a": "b"}, etag=old, match_condition=MatchConditions.IfNotModified
            ),
            lambda: one.delete_blob(etag=old, match_condition=MatchConditions.IfNotModified),
        ):
            with pytest.raises(ResourceModifiedError) as error:
                stale()
            assert code(error) == "ConditionNotMet"
        assert one.download_blob().readall() == b"v2"
        one.stage_block("aaaa", b"v3")
        with pytest.raises(ResourceModifiedError):
            one.commit_block_list(
                [BlobBlock("aaaa")], etag=old, match_condition=MatchConditions.IfNotModified
            )
        new = one.get_blob_properties().etag
        one.delete_blob(etag=new, match_condition=MatchConditions.IfNotModified)
        assert not one.exists()


class TestCopyAndDelete:
    def test_copy(self, container: ContainerClient) -> None:
        source = container.upload_blob("from", b"bytes" * 1000, metadata={"k": "v"})
        target = container.get_blob_client("to")
        assert target.start_copy_from_url(source.url)["copy_status"] == "success"
        assert target.download_blob().readall() == b"bytes" * 1000
        properties = target.get_blob_properties()
        assert properties.metadata == {"k": "v"}
        assert properties.copy.status == "success"
        container.upload_blob("from", b"changed", overwrite=True)
        source.delete_blob()
        assert target.download_blob().readall() == b"bytes" * 1000

    def test_copy_from_nothing(self, container: ContainerClient) -> None:
        with pytest.raises(ResourceNotFoundError):
            container.get_blob_client("to").start_copy_from_url(container.get_blob_client("no").url)

    def test_put_blob_from_url(self, ours: Backend, container: ContainerClient) -> None:
        source = container.upload_blob(
            "from", b"bytes", content_settings=ContentSettings(content_type="text/x")
        )
        target = container.get_blob_client("to")
        sas = blob_sas(ours, container.container_name, "from")
        target.upload_blob_from_url(f"{source.url}?{sas}")
        assert target.download_blob().readall() == b"bytes"
        assert target.get_blob_properties().content_settings.content_type == "text/x"

    def test_delete(self, container: ContainerClient) -> None:
        one = container.upload_blob("d", b"x")
        one.delete_blob()
        for gone in (one.delete_blob, one.get_blob_properties, one.download_blob):
            with pytest.raises(ResourceNotFoundError) as error:
                gone()
            assert code(error) == "BlobNotFound"
