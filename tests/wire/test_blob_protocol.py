"""The blob protocol through the unmodified azure-storage-blob client. The same tests run against Azurite:
what both do is what the client needs; what only Tidemill does says so."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import http.client
import os
import ssl
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from blob_backends import (
    ACCOUNT,
    OTHER,
    SCOPE,
    Backend,
    Unavailable,
    add_jobs,
    azurite,
    change_home,
    now,
    tidemill,
)

from tidemill.domain.model import Scope
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.domain.roles import Permission, RoleAssignment, RoleDefinition
from tidemill.domain.signin import Session
from tidemill.identity.storage_keys import StorageKeys
from tidemill.identity.tokens import TokenIssuer
from tidemill.store.api import Tx

blob = (
    pytest.importorskip("azure.storage.blob")
    if not os.environ.get("CI")
    else __import__("azure.storage.blob", fromlist=["blob"])
)
from azure.core import MatchConditions  # noqa: E402
from azure.core.exceptions import (  # noqa: E402
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import (  # noqa: E402
    BlobBlock,
    BlobClient,
    BlobPrefix,
    BlobSasPermissions,
    BlobServiceClient,
    ContainerClient,
    ContainerSasPermissions,
    ContentSettings,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)

MIB = 1 << 20
SIGNED_NAME = f"{ACCOUNT}.blob.core.windows.net"


@pytest.fixture(scope="module", params=["tidemill", pytest.param("azurite", marks=pytest.mark.azurite)])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    start = tidemill if request.param == "tidemill" else azurite
    try:
        with start(tmp_path_factory.mktemp(request.param)) as running:
            yield running
    except Unavailable as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


@pytest.fixture
def ours(backend: Backend) -> Backend:
    if backend.name != "tidemill":
        pytest.skip("only Tidemill does this")
    return backend


def client_of(backend: Backend, credential: object = "", url: str = "", **more: object) -> BlobServiceClient:
    return BlobServiceClient(
        url or backend.url,
        credential=backend.key if credential == "" else credential,
        connection_verify=backend.ca,
        retry_total=0,
        **more,
    )


@pytest.fixture
def service(backend: Backend) -> Iterator[BlobServiceClient]:
    with client_of(backend, max_single_put_size=2 * MIB, max_block_size=MIB) as client:
        yield client


@pytest.fixture
def container(service: BlobServiceClient) -> ContainerClient:
    return service.create_container(f"c-{uuid.uuid4().hex[:12]}")


def code(error: pytest.ExceptionInfo[HttpResponseError]) -> str:
    found = getattr(error.value, "error_code", "")
    return str(getattr(found, "value", found))


def refused(backend: Backend, error: pytest.ExceptionInfo[HttpResponseError]) -> bool:
    """403 because the request proves nothing. Azurite has another code for it than Azure."""
    wanted = "AuthenticationFailed" if backend.name == "tidemill" else "AuthorizationFailure"
    return (error.value.status_code, code(error)) == (403, wanted)


def hours(count: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(hours=count)


def names(container: ContainerClient, **query: object) -> list[str]:
    return [item.name for item in container.list_blobs(**query)]


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


def blob_sas(backend: Backend, container: str, name: str, **more: object) -> str:
    said: dict[str, object] = {
        "account_name": SIGNED_NAME,
        "account_key": backend.key,
        "permission": BlobSasPermissions(read=True),
        "expiry": hours(1),
    }
    return generate_blob_sas(container_name=container, blob_name=name, **(said | more))


def blob_with(backend: Backend, container: str, name: str, sas: str) -> BlobClient:
    return client_of(backend, credential=sas).get_blob_client(container, name)


def home_issuer(home: Path) -> TokenIssuer:
    """What the home's control process issues tokens with."""
    from tidemill.app.services import Addresses
    from tidemill.identity.keys import load_or_create
    from tidemill.server.compose import issuer
    from tidemill.server.home import Home, load_config

    place = Home(home)
    addresses = Addresses("https://localhost:1", "http://127.0.0.1:1", "https://localhost:1")
    return issuer(place, load_config(place), load_or_create(place.secrets), addresses)


class Person:
    """Somebody with one custom role at SCOPE, made and changed behind the data process's back."""

    def __init__(
        self, home: Path, name: str, actions: tuple[str, ...] = (), data: tuple[str, ...] = ()
    ) -> None:
        self._home = home
        self.principal = Principal(str(uuid.uuid4()), PrincipalKind.USER, name)
        self._role = RoleDefinition(
            f"role-{name}", f"role of {name}", (Permission(actions, (), data),), "", ("/subscriptions/s",)
        )
        self._given = f"assignment-{name}"

    @property
    def holder(self) -> str:
        return f"{self.principal.oid}.{self._given}"

    def __enter__(self) -> Person:
        self._change(lambda tx: [tx.insert_principal(self.principal), tx.insert_role_definition(self._role)])
        self.grant(self._given)
        return self

    def grant(self, id: str) -> None:
        given = RoleAssignment(id, SCOPE.arm_id, self.principal.oid, self._role.id)
        self._change(lambda tx: tx.insert_role_assignment(given))

    def revoke(self) -> None:
        self._change(lambda tx: tx.delete_role_assignment(self._given))

    def disable(self, disabled: bool) -> None:
        oid = self.principal.oid
        self._change(lambda tx: tx.update_principal(replace(tx.principal(oid), disabled=disabled)))

    def sign_in(self, id: str) -> None:
        end = now() + 600_000_000
        session = Session(id, self.principal.oid, "portal", "password", "", b"", 1, now(), now(), end)
        self._change(lambda tx: tx.insert_session(session))

    def sign_out(self) -> None:
        self._change(lambda tx: tx.end_sessions(self.principal.oid, now(), "signed out"))

    def __exit__(self, *error: object) -> None:
        self._change(lambda tx: tx.delete_principal(tx.principal(self.principal.oid)))

    def _change(self, change: Callable[[Tx], object]) -> None:
        asyncio.run(change_home(self._home, change))


def ask(backend: Backend, path: str, token: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection(
        "localhost", backend.port, timeout=10, context=ssl.create_default_context(cafile=backend.ca)
    )
    connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    result = answer.status, answer.read()
    connection.close()
    return result


class TestAccess:
    def test_blob_sas(self, backend: Backend, container: ContainerClient) -> None:
        container.upload_blob("ü/b c", b"secret")
        container.upload_blob("other", b"other")
        sas = blob_sas(backend, container.container_name, "ü/b c")
        one = blob_with(backend, container.container_name, "ü/b c", sas)
        assert one.download_blob().readall() == b"secret"
        with pytest.raises(HttpResponseError) as error:
            one.delete_blob()
        assert (error.value.status_code, code(error)) == (403, "AuthorizationPermissionMismatch")
        with pytest.raises(HttpResponseError) as foreign:
            blob_with(backend, container.container_name, "other", sas).download_blob()
        assert refused(backend, foreign)

    def test_container_sas(self, backend: Backend, container: ContainerClient) -> None:
        sas = generate_container_sas(
            SIGNED_NAME,
            container.container_name,
            backend.key,
            permission=ContainerSasPermissions(read=True, list=True, create=True),
            expiry=hours(1),
            start=hours(-1),
        )
        inside = client_of(backend, credential=sas).get_container_client(container.container_name)
        inside.upload_blob("new", b"x")
        assert names(inside) == ["new"]
        with pytest.raises(HttpResponseError) as error:
            inside.upload_blob("new", b"y", overwrite=True)
        assert error.value.status_code == 403
        with pytest.raises(HttpResponseError):
            inside.delete_container()
        other = client_of(backend).create_container(f"o-{uuid.uuid4().hex[:12]}")
        with pytest.raises(HttpResponseError) as foreign:
            names(client_of(backend, credential=sas).get_container_client(other.container_name))
        assert refused(backend, foreign)
        assert container.get_blob_client("new").download_blob().readall() == b"x"

    def test_account_sas(
        self, backend: Backend, service: BlobServiceClient, container: ContainerClient
    ) -> None:
        sas = generate_account_sas(
            SIGNED_NAME, backend.key, resource_types="sco", permission="rl", expiry=hours(1)
        )
        reader = client_of(backend, credential=sas)
        assert container.container_name in [item.name for item in reader.list_containers()]
        with pytest.raises(HttpResponseError) as error:
            reader.create_container("never-made")
        assert error.value.status_code == 403

    @pytest.mark.parametrize("change", ["expired", "early", "altered", "wrong key", "wider", "another name"])
    def test_bad_sas(self, backend: Backend, container: ContainerClient, change: str) -> None:
        container.upload_blob("b", b"x")
        place = (backend, container.container_name, "b")
        wrong = base64.b64encode(b"k" * 64).decode()
        match change:
            case "expired":
                sas = blob_sas(*place, expiry=hours(-0.01))
            case "early":
                sas = blob_sas(*place, start=hours(0.5))
            case "altered":
                sas = blob_sas(*place).replace("sig=", "sig=A")
            case "wrong key":
                sas = blob_sas(*place, account_key=wrong)
            case "wider":
                sas = blob_sas(*place).replace("sp=r", "sp=rwd")
            case _:
                sas = blob_sas(*place, account_name="somebody")
        with pytest.raises(HttpResponseError) as error:
            blob_with(*place, sas).download_blob()
        assert refused(backend, error)

    def test_wrong_key(self, backend: Backend, container: ContainerClient) -> None:
        stranger = client_of(backend, credential=base64.b64encode(b"k" * 64).decode())
        with pytest.raises(HttpResponseError) as error:
            names(stranger.get_container_client(container.container_name))
        assert refused(backend, error)
        with pytest.raises(HttpResponseError) as upload:
            stranger.get_container_client(container.container_name).upload_blob("x", b"x" * 100_000)
        assert refused(backend, upload)

    @pytest.mark.parametrize("alias", ["localhost:{port}/{account}", "{account}"])
    def test_sas_signed_for_an_alias(self, ours: Backend, container: ContainerClient, alias: str) -> None:
        container.upload_blob("logs/user_logs/std_log.txt", b"line\n")
        signed = alias.format(port=ours.port, account=ACCOUNT)
        place = (ours, container.container_name, "logs/user_logs/std_log.txt")
        one = blob_with(*place, blob_sas(*place, account_name=signed))
        assert one.download_blob().readall() == b"line\n"

    def test_one_account_never_opens_another(self, ours: Backend, container: ContainerClient) -> None:
        other = ours.url.replace(ACCOUNT, OTHER)
        with pytest.raises(ClientAuthenticationError) as error:
            list(client_of(ours, url=other).list_containers())
        assert error.value.status_code == 403
        container.upload_blob("b", b"x")
        sas = blob_sas(ours, container.container_name, "b")
        with pytest.raises(ClientAuthenticationError):
            client_of(ours, credential=sas, url=other).get_blob_client(
                container.container_name, "b"
            ).download_blob()

    def test_an_account_that_nobody_owns(self, ours: Backend) -> None:
        with pytest.raises(ResourceNotFoundError):
            list(client_of(ours, url=ours.url.replace(ACCOUNT, "nobody")).list_containers())

    def test_tokens(self, ours: Backend, container: ContainerClient) -> None:
        """Of the owner, of a job of the workspace that owns the account, of another workspace, of nobody."""
        home = Path(ours.ca).parents[1]
        container.upload_blob("b", b"x")
        path = f"/{ACCOUNT}.blob.core.windows.net/{container.container_name}/b"
        tokens = home_issuer(home)
        storage = "https://storage.azure.com"

        def job(scope: Scope, uid: str = "live") -> str:
            return tokens.issue_job(uid=uid, name="job", scope=scope, audience=storage, ttl_s=60)

        add_jobs(home, {"live": "Running", "ended": "Completed"})

        somebody = Principal("11111111-0000-0000-0000-000000000000", PrincipalKind.USER, "bob")
        assert ask(ours, path, tokens.issue_owner(storage)) == (200, b"x")
        assert ask(ours, path, job(Scope("S", "G", "main"))) == (200, b"x")
        with Person(home, "reader", data=("*/read",)) as reader:
            mine = tokens.issue_to(reader.principal, storage)
            assert ask(ours, path, mine) == (200, b"x")
            assert ask(ours, f"{path}?comp=tags", mine)[0] >= 400
            assert ask(ours, f"/{ACCOUNT}.blob.core.windows.net/?comp=list", mine)[0] == 403
            assert ask(ours, path, mine, "DELETE")[0] == 403
            signed_in = tokens.issue_to(reader.principal, storage, session="s-1")
            assert ask(ours, path, signed_in)[0] == 401  # no such sign-in
            reader.sign_in("s-1")
            assert ask(ours, path, signed_in) == (200, b"x")
            reader.sign_out()
            assert ask(ours, path, signed_in)[0] == 401
            reader.revoke()
            assert ask(ours, path, mine)[0] == 403
        assert ask(ours, path, mine)[0] == 401
        for token, status in (
            (job(Scope("s", "g", "other")), 403),
            (job(Scope("s", "g", "main"), "ended"), 401),
            (job(Scope("s", "g", "main"), "never"), 401),
            (tokens.issue_to(somebody, storage), 401),
            (tokens.issue_owner(storage) + "x", 401),
            (tokens.issue_owner(storage, ttl_s=-5), 401),
            ("nonsense", 401),
        ):
            assert ask(ours, path, token)[0] == status

    def test_losing_the_role_closes_the_door(self, ours: Backend, container: ContainerClient) -> None:
        """Keys, what was signed with them, what the server signed: dead with the assignment."""
        from tidemill.wire.blob.sas import make_sas

        home = Path(ours.ca).parents[1]
        keys = StorageKeys((home / "secrets" / "storage.key").read_bytes())
        container.upload_blob("b", b"x")
        place = (SIGNED_NAME, container.container_name, "b")
        with Person(home, "ann", actions=("*/listSecrets/action",)) as ann:
            key = keys.key(ACCOUNT, ann.holder)
            by_key = client_of(ours, credential=key).get_blob_client(container.container_name, "b")
            sas = blob_sas(ours, *place[1:], account_key=key)
            by_sas = blob_with(ours, container.container_name, "b", sas)
            signer = f"sas:{ann.holder}"
            signed = make_sas(
                keys.key(ACCOUNT, signer), ACCOUNT, place[1], None, "r", now() + 600_000_000, holder=signer
            )
            by_server = blob_with(ours, container.container_name, "b", signed)
            clients = (by_key, by_sas, by_server)
            assert [one.download_blob().readall() for one in clients] == [b"x"] * 3
            # A key in somebody's hands signs nothing in the server's name.
            forged = make_sas(key, ACCOUNT, place[1], None, "r", now() + 600_000_000, holder=signer)
            with pytest.raises(ClientAuthenticationError):
                blob_with(ours, container.container_name, "b", forged).download_blob()
            ann.disable(True)
            for one in clients:
                with pytest.raises(ClientAuthenticationError):
                    one.download_blob()
            ann.disable(False)
            assert by_key.download_blob().readall() == b"x"
            ann.revoke()
            for one in clients:
                with pytest.raises(ClientAuthenticationError):
                    one.download_blob()
            ann.grant("another-assignment")
            with pytest.raises(ClientAuthenticationError):
                by_key.download_blob()
        container.get_blob_client("b").download_blob()  # the owner's own key

    def test_what_was_signed_for_a_job_ends_with_it(self, ours: Backend, container: ContainerClient) -> None:
        from tidemill.wire.blob.sas import make_sas

        home = Path(ours.ca).parents[1]
        keys = StorageKeys((home / "secrets" / "storage.key").read_bytes())
        container.upload_blob("b", b"x")
        add_jobs(home, {"runs": "Running", "over": "Failed"})
        for uid, good in (("runs", True), ("over", False), ("never", False)):
            holder = f"job:{uid}"
            sas = make_sas(
                keys.key(ACCOUNT, holder),
                ACCOUNT,
                container.container_name,
                None,
                "r",
                now() + 600_000_000,
                holder=holder,
            )
            one = blob_with(ours, container.container_name, "b", sas)
            if good:
                assert one.download_blob().readall() == b"x"
            else:
                with pytest.raises(ClientAuthenticationError):
                    one.download_blob()

    def test_no_authorization_at_all(self, ours: Backend, container: ContainerClient) -> None:
        status, body = ask(ours, f"/{ACCOUNT}.blob.core.windows.net/{container.container_name}/b", "")
        assert (status, b"NoAuthenticationInformation" in body) == (401, True)

    def test_our_own_sas(self, ours: Backend, container: ContainerClient) -> None:
        import time

        from tidemill.wire.blob.sas import make_sas

        expires = int((time.time() + 600) * 1e6)
        sas = make_sas(ours.key, ACCOUNT, container.container_name, None, "rcwl", expires)
        inside = client_of(ours, credential=sas).get_container_client(container.container_name)
        inside.upload_blob("x", b"1", overwrite=True)
        assert names(inside) == ["x"]
