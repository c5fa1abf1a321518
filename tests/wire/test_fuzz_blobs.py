"""Hostile names, headers, queries and bodies at the blob service, and signatures that were tampered with."""

from __future__ import annotations

import itertools
import json
import os
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from azure.storage.blob import AccountSasPermissions, BlobSasPermissions, ResourceTypes, generate_account_sas
from azure.storage.blob import generate_blob_sas as sign_blob
from hostile import LEAKS, SEGMENTS, RawClient, Reply

NUMBERS = ("-1", "\xb2", "9" * 5_000, "1e3", "0x10", "NaN", "")
HEADERS: Mapping[str, tuple[str, ...]] = {
    "x-ms-range": ("bytes=5-1", "bytes=-5", "bytes=" + "9" * 400 + "-", "bytes=\xb2-", "lines=1-2"),
    "if-modified-since": ("yesterday", "Mon, 99 Nov 2026 99:99:99 GMT", "Fri, 31 Dec 9999 23:59:59 -9999"),
    "if-match": ('"', "W/\xff", "*" * 5_000),
    "x-ms-blob-type": ("BlockBlob", "PageBlob", "\xff", ""),
    "x-ms-meta-a": ("\xff\xfe", "x" * 9_000),
    "x-ms-meta-": ("x",),
    "content-md5": ("!", "AAAA", "\xff"),
    "x-ms-blob-content-md5": ("!", "AAAA"),
    "x-ms-content-crc64": ("!",),
    "x-ms-copy-source": (
        "",
        "file:///etc/passwd",
        "http://[::1",
        "http://169.254.169.254/",
        "\xff",
        "x" * 9_000,
    ),
    "x-ms-blob-content-length": NUMBERS,
    "x-ms-blob-condition-appendpos": NUMBERS,
    "x-ms-blob-condition-maxsize": NUMBERS,
    "x-ms-version": ("", "0", "9999-99-99", "\xff"),
    "x-ms-client-request-id": ("a\x0bb", "x" * 5_000),
    "content-encoding": ("a\x0bb",),
    "content-type": ("a\x0bb", "\xff"),
    "range": ("bytes=0-0,1-1", "bytes=a-b"),
}
QUERIES = (
    "comp=list&restype=container&maxresults=%C2%B2",
    "comp=list&restype=container&maxresults=" + "9" * 5_000,
    "comp=list&restype=container&marker=%00&prefix=%ff&delimiter=%00",
    "comp=list&restype=container&include=" + "x," * 2_000,
    "comp=list&restype=container&prefix=..%2F..%2F",
    "comp=block&blockid=%00",
    "comp=block&blockid=" + "QQ%3D%3D" * 300,
    "comp=blocklist&blocklisttype=x",
    "comp=%00",
    "comp=../../x",
    "restype=account&comp=properties",
    "snapshot=x",
    "versionid=%ff",
    "comp=appendblock",
    "comp=properties",
    "comp=metadata",
    "timeout=-1",
)
BLOCK_LISTS = (
    b"",
    b"<",
    b"\xff\xfe",
    b"<BlockList/>",
    b"<BlockList><Latest>!!</Latest></BlockList>",
    b"<BlockList><Evil>QQ==</Evil></BlockList>",
    b"<a>" * 5_000,
    b'<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;&b;&b;">]><BlockList><Latest>&d;</Latest></BlockList>',
    b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><BlockList><Latest>&x;</Latest></BlockList>',
    b"<BlockList>" + b"<Latest>QQ==</Latest>" * 60_000 + b"</BlockList>",
)


class Blobs:
    """The workspace's storage account, through the data process."""

    def __init__(self, server: Any) -> None:
        from tidemill.cli.session import Given, Session

        session = Session(Given(home=str(server.home)))
        api = {"api-version": "2024-10-01"}
        store = session.client.get(f"{server.workspace_id}/datastores/workspaceblobstore", api)["properties"]
        secrets = f"{server.workspace_id}/datastores/workspaceblobstore/listSecrets"
        self.account, self.container = store["accountName"].rsplit("/", 1)[-1], store["containerName"]
        self.key = session.client.call("POST", secrets, {}, api)["key"]
        self.port = int(server.state["addresses"]["data"].rsplit(":", 1)[1])
        tls = ssl.create_default_context(cafile=str(server.home / "tls" / "ca.pem"))
        self.client = RawClient(self.port, {"x-ms-version": "2021-12-02"}, tls=tls)
        self.base = f"/{self.account}.blob.core.windows.net"
        self.log = server.home / "logs" / "data.log"
        later = datetime.now(UTC) + timedelta(hours=1)
        everything = AccountSasPermissions(
            read=True, write=True, delete=True, list=True, add=True, create=True
        )
        kinds = ResourceTypes(service=True, container=True, object=True)
        self.sas = generate_account_sas(self.account, self.key, kinds, everything, later)

    def ask(
        self, method: str, path: str, body: bytes | None = None, sas: str | None = None, **headers: str
    ) -> Reply:
        path, _, query = path.partition("?")
        query = "&".join(filter(None, (query, self.sas if sas is None else sas)))
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.send(method, f"{self.base}/{path}?{query}", body, said)

    def sign(self, name: str, permission: str = "r", **more: Any) -> str:
        said = {"account_key": self.key, "expiry": datetime.now(UTC) + timedelta(hours=1), **more}
        letters = BlobSasPermissions.from_string(permission)
        return sign_blob(self.account, self.container, name, permission=letters, **said)


@pytest.fixture(scope="module")
def blobs(server: Any) -> Iterator[Blobs]:
    made = Blobs(server)
    assert made.ask("PUT", f"{made.container}/there", b"secret", x_ms_blob_type="BlockBlob").status == 201
    yield made
    made.client.close()
    log = made.log.read_text()
    assert "Traceback" not in log, log[-4000:]


def problem(reply: Reply) -> str:
    """501 is the service's word for a verb that it does not have; anything else above 499 is a fault."""
    if reply.status >= 500 and reply.status != 501:
        return f"status {reply.status}"
    if reply.status >= 400 and (len(reply.body) > 100_000 or any(leak in reply.body for leak in LEAKS)):
        return f"it shows its insides: {reply.body[:200]!r}"
    return "a header was injected" if "x-evil" in reply.headers else ""


def lasting(home: Path) -> set[str]:
    """What lies in a home for longer than a moment: the server makes more as it needs it."""
    return {name for name in os.listdir(home) if not name.startswith("trial-") and not name.endswith(".new")}


def outside_the_store(home: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(home):
        folders[:] = [name for name in folders if Path(folder, name) != home / "blobs"]
        yield from (Path(folder, name) for name in files)


def content(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except FileNotFoundError:  # it was there for a moment
        return b""


def test_names(blobs: Blobs, server: Any) -> None:
    """What a file system would take for a path stays a name, or is refused."""
    wrong: list[str] = []
    written = b"written under a hostile name"
    there = lasting(server.home)
    for segment in SEGMENTS:
        for path in (
            f"{blobs.container}/{segment}",
            f"{blobs.container}/a/{segment}/b",
            f"{segment}/x",
            segment,
        ):
            for method, body in (("PUT", written), ("GET", None), ("HEAD", None), ("DELETE", None)):
                reply = blobs.ask(method, path, body, x_ms_blob_type="BlockBlob")
                found = problem(reply)
                if method == "GET" and b"root:" in reply.body:
                    found = "another file's content"
                wrong += [f"{method} {path[:200]}: {found}"] if found else []
    assert not wrong, "\n".join(wrong)
    assert there <= lasting(server.home)
    assert not [path for path in outside_the_store(server.home) if written in content(path)]


def test_headers_and_queries(blobs: Blobs) -> None:
    wrong: list[str] = []
    methods = (("PUT", b"x"), ("GET", None), ("HEAD", None))
    for name, values in HEADERS.items():
        for value, (method, body) in itertools.product(values, methods):
            headers = {"x-ms-blob-type": "BlockBlob", name: value}
            target = f"{blobs.base}/{blobs.container}/h?{blobs.sas}"
            found = problem(blobs.client.send(method, target, body, headers))
            wrong += [f"{method} {name}: {value[:80]!r}: {found}"] if found else []
    for query, (method, body) in itertools.product(QUERIES, (*methods, ("DELETE", None), ("POST", b"x"))):
        for path in ("", blobs.container, f"{blobs.container}/q"):
            if method == "DELETE" and path == blobs.container:
                continue
            found = problem(blobs.ask(method, f"{path}?{query}", body))
            wrong += [f"{method} {path}?{query[:80]}: {found}"] if found else []
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("body", BLOCK_LISTS, ids=range(len(BLOCK_LISTS)))
def test_block_lists(blobs: Blobs, body: bytes) -> None:
    reply = blobs.ask("PUT", f"{blobs.container}/list?comp=blocklist", body)
    assert not problem(reply), reply
    assert b"root:" not in reply.body
    if body != b"<BlockList/>":
        assert reply.status in (400, 413), reply


def changed(sas: str, **changes: str) -> str:
    return urlencode({**dict(parse_qsl(sas)), **changes})


def test_a_signature_holds_for_what_it_was_made_for(blobs: Blobs) -> None:
    sas = blobs.sign("there")
    assert blobs.ask("GET", f"{blobs.container}/there", sas=sas).body == b"secret"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("other", {}),
        ("there/../there", {}),
        ("THERE", {}),
        ("there%00", {}),
        ("there", {"sp": "rw"}),
        ("there", {"sp": "racwdl"}),
        ("there", {"se": "2099-01-01T00:00:00Z"}),
        ("there", {"se": ""}),
        ("there", {"se": "never"}),
        ("there", {"st": "2001-01-01T00:00:00Z"}),
        ("there", {"sr": "c"}),
        ("there", {"sv": "2018-03-28"}),
        ("there", {"sv": "9999-01-01"}),
        ("there", {"sip": "0.0.0.0-255.255.255.255"}),
        ("there", {"sig": ""}),
        ("there", {"sig": "A" * 44}),
        ("there", {"sig": "\u00e9"}),
        ("there", {"ss": "b", "srt": "sco"}),
        ("there", {"skoid": "x", "sktid": "y"}),
        ("there", {"si": "policy"}),
    ],
)
def test_a_changed_path_permission_or_expiry_is_refused(
    blobs: Blobs, name: str, changes: dict[str, str]
) -> None:
    sas = changed(blobs.sign("there"), **changes)
    for method, body in (("GET", None), ("PUT", b"x"), ("DELETE", None)):
        reply = blobs.ask(method, f"{blobs.container}/{name}", body, sas=sas, x_ms_blob_type="BlockBlob")
        assert reply.status in (400, 403), (method, reply)
        assert b"secret" not in reply.body
    assert blobs.ask("GET", f"{blobs.container}/there").body == b"secret"


def test_a_read_signature_writes_nothing_and_an_old_one_reads_nothing(blobs: Blobs) -> None:
    read = blobs.sign("there")
    assert blobs.ask("PUT", f"{blobs.container}/there", b"x", read, x_ms_blob_type="BlockBlob").status == 403
    assert blobs.ask("DELETE", f"{blobs.container}/there", sas=read).status == 403
    assert blobs.ask("GET", f"{blobs.container}?restype=container&comp=list", sas=read).status == 403
    old = blobs.sign("there", expiry=datetime.now(UTC) - timedelta(minutes=1))
    early = blobs.sign("there", start=datetime.now(UTC) + timedelta(hours=1))
    plain = blobs.sign("there", ip="10.1.2.3")
    for sas in (old, early, plain):
        assert blobs.ask("GET", f"{blobs.container}/there", sas=sas).status == 403


def test_a_refusal_says_no_more_than_the_request_did(blobs: Blobs) -> None:
    """The string to sign is the request's own; keys and other blobs' names are in no answer."""
    reply = blobs.ask("GET", f"{blobs.container}/other", sas=blobs.sign("there"))
    assert blobs.key.encode() not in reply.body
    assert b"there" not in reply.body.replace(b"there is", b"")
    assert json.dumps(dict(reply.headers)).find(blobs.key) == -1
