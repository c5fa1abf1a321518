"""Hashes, ignore files and signatures: the figures come from Azure's own clients."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_fake_server import Asked, Fake

from tidemill.cli import hashing, ignore, upload
from tidemill.cli.blob import Container, sign
from tidemill.cli.errors import CliError
from tidemill.cli.folder import Contents, Excluded, contents_of
from tidemill.cli.session import Given, Session


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "src"
    (root / "Sub" / "deep").mkdir(parents=True)
    (root / "__pycache__").mkdir()
    files = {
        "a.py": "1",
        "B.py": "22",
        "Sub/x.txt": "xx",
        "Sub/deep/k.log": "l",
        "__pycache__/z.pyc": "p",
        "data.csv": "d",
        "keep.log": "k",
        ".amlignore": "*.log\n!keep.log\n__pycache__/\n/data.csv\n# c\nSub/**/no\n",
    }
    for name, content in files.items():
        (root / name).write_text(content)
    (root / "link.py").symlink_to(root / "a.py")
    return root


def test_hashes_are_those_of_the_sdk(tree: Path) -> None:
    excluded = ignore.load(tree)
    files = contents_of(tree, excluded).files
    names = [".amlignore", "B.py", "Sub/x.txt", "a.py", "keep.log", "link.py"]
    assert sorted(name for _, name in files) == names
    assert hashing.content_hash(files) == "d768bdbed192989b4707b78fb917adbee7df6454e2e62c187ad5d775d5e6551d"
    assert (
        hashing.object_hash(tree, excluded)
        == "d2a1989290552220759df917056f0563c518525ef969df25fb1783fbe2ee9d64"
    )
    assert (
        hashing.object_hash(tree / "a.py", excluded)
        == "7d754e8deae08f1dfdbb5fa7d4acc8ca75f6b71ff825ae5e50992b1d99f04fed"
    )


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with links out of it, and inside."""
    root = tmp_path / "code"
    for name, content in {
        "code/a.py": "a\n",
        "code/sub/b.py": "b\n",
        "code/sub/x.log": "l\n",
        "code/.amlignore": "*.log\n/far/drop.txt\nsub/b.py\n",
        "outside.txt": "hi\n",
        "outside/deep/o.txt": "o\n",
        "outside/drop.txt": "n\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    links = {"out.txt": "../outside.txt", "far": "../outside", "twin": "sub", "z.py": "a.py"}
    for link, target in links.items():
        (root / link).symlink_to(target)
    return root


def test_links_are_followed_as_the_sdk_follows_them(linked: Path) -> None:
    excluded = ignore.load(linked)
    found = contents_of(linked, excluded)
    assert [name for _, name in found.files] == [
        ".amlignore", "a.py", "far/deep/o.txt", "far/drop.txt", "out.txt", "z.py",
    ]  # fmt: skip
    assert hashing.content_hash(found.files) == (
        "44fe2c14f2f8803593b7834638c10a093b188fd6fb7eae7c2eae0ca5a7a81cc9"
    )
    assert hashing.object_hash(linked, excluded) == (
        "2fdfc4161dcfb3558d2d0335524f69ca94f3cfd48c50748df5e24ec8f7f404bc"
    )
    outside = linked.parent / "outside"
    assert found.out == {"far": str(outside), "out.txt": f"{outside}.txt"}
    assert found.link_to(str(outside / "deep" / "o.txt")) == "far"
    assert found.link_to(str(linked / "a.py")) == ""


def test_links_that_lead_back_end(linked: Path) -> None:
    before = contents_of(linked, ignore.load(linked)).files
    for link, target in {"self": ".", "up": "..", "sub/above": "../..", "../outside/back": "../code"}.items():
        (linked / link).symlink_to(target)
    found = contents_of(linked, ignore.load(linked))
    assert found.files == before
    assert found.loops == ["far/back", "self", "sub/above", "twin/above", "up"]
    hashing.object_hash(linked, ignore.load(linked))


def test_a_file_that_vanishes_is_named_with_the_link_to_it(
    linked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(root: Path, excluded: Excluded) -> Contents:
        found = contents_of(root, excluded)
        (root / "far" / "deep" / "o.txt").unlink()
        return found

    monkeypatch.setattr(upload, "contents_of", looked)
    with pytest.raises(CliError) as caught:
        upload.upload_code(Session(Given()), linked)
    gone = linked.parent / "outside" / "deep" / "o.txt"
    assert f"{gone} cannot be read (No such file or directory)" in caught.value.message
    assert f"{linked / 'far'} is a link that leads there, out of the folder." in caught.value.message


def test_a_name_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.py").touch()
    (tmp_path / os.fsdecode(b"x\xff.txt")).touch()
    store = upload.Store("s", Container("", tmp_path))
    for send in (
        lambda: upload.upload_code(Session(Given()), tmp_path),
        lambda: upload.upload_path(Session(Given()), store, tmp_path, "uri_folder"),
    ):
        with pytest.raises(CliError, match=r"'x\\udcff.txt' below .* is not named in UTF-8"):
            send()


def test_what_changes_while_it_is_sent_is_not_kept_under_the_old_hash(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text("1")
    store = upload.Store(
        "s", Container(f"{fake.address}/acct.blob.core.windows.net/c", tmp_path, sas="sig=x")
    )
    original = fake.respond

    def respond(handler: Any, asked: Asked) -> None:
        if asked.method == "PUT":
            (folder / "b.csv").write_text("2")
        original(handler, asked)

    monkeypatch.setattr(fake, "respond", respond)
    with pytest.raises(
        CliError, match=r"b\.csv changed while .*/data was uploaded.* name it in .*\.amlignore"
    ):
        upload.upload_path(Session(Given()), store, folder, "uri_folder")
    assert len(fake.blobs) == 2
    assert fake.metadata == {}
    monkeypatch.setattr(fake, "respond", original)
    (folder / "b.csv").write_text("1")
    uri = upload.upload_path(Session(Given()), store, folder, "uri_folder")
    place = uri.split("/paths/")[1]
    assert [text for name, text in sorted(fake.blobs.items()) if place in name] == [b"1", b"1"]
    assert len(fake.blobs) == 2
    assert [meta["upload_status"] for meta in fake.metadata.values()] == ["completed"]


@pytest.mark.parametrize("error", [CliError("It is refused."), KeyboardInterrupt()])
def test_one_file_that_fails_ends_the_upload_of_the_others(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, sent = threading.Barrier(upload._WORKERS), list[str]()

    class Client:
        def __init__(self, container: Container) -> None:
            pass

        def put(self, name: str, path: Path, progress: Callable[[int], None]) -> None:
            begun.wait(60)
            if name == "2":
                raise error
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                time.sleep(0.001)
                progress(1)
            sent.append(name)

        def close(self) -> None:
            pass

    monkeypatch.setattr(upload, "BlobClient", Client)
    ordered = [(tmp_path / str(number), str(number)) for number in range(40)]
    progress = upload.Progress(Session(Given()), "data", 40, 40)
    with pytest.raises(type(error)):
        upload._send_parallel(Container("", tmp_path), ordered, progress)
    assert sent == []


@pytest.mark.parametrize(
    ("rules", "path", "out"),
    [
        ("*.pyc", "a/b.pyc", True),
        ("build/", "build/x", True),
        ("build/", "a/build/x", True),
        ("build/", "build", False),
        ("/only", "only/x", True),
        ("/only", "a/only", False),
        ("a/b", "a/b/c", True),
        ("a/b", "x/a/b", False),
        ("**/logs", "x/y/logs/z", True),
        ("data/**", "data/x/y", True),
        ("*.txt\n!keep.txt", "keep.txt", False),
        ("[ab].py", "a.py", True),
        ("[!ab].py", "a.py", False),
        ("?.py", "ab.py", False),
        ("\\#x", "#x", True),
        ("# x", "# x", False),
        ("", "x", False),
    ],
)
def test_ignore_patterns(tmp_path: Path, rules: str, path: str, out: bool) -> None:
    (tmp_path / ".gitignore").write_text(rules)
    assert ignore.load(tmp_path)(path) is out


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (
            b"*.pyc\n[z-a].py\n",
            r"\.amlignore:2: the pattern '\[z-a\]\.py' cannot be read: bad character range",
        ),
        (b"x\n\n[!]y\n", r"\.amlignore:3: the pattern '\[!\]y' cannot be read"),
        (b"ok\n\xff\n", r"\.amlignore is not UTF-8 text \(byte 3\)"),
    ],
)
def test_an_ignore_file_that_cannot_be_read_is_named(tmp_path: Path, raw: bytes, told: str) -> None:
    (tmp_path / ".amlignore").write_bytes(raw)
    with pytest.raises(CliError, match=told):
        ignore.load(tmp_path)


def test_a_mark_before_the_first_pattern_is_none_of_it(tmp_path: Path) -> None:
    (tmp_path / ".amlignore").write_bytes(b"\xef\xbb\xbf*.csv\n")
    assert ignore.load(tmp_path)("x.csv")


def test_amlignore_goes_before_gitignore(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.py")
    (tmp_path / ".amlignore").write_text("*.csv")
    excluded = ignore.load(tmp_path)
    assert (excluded("x.py"), excluded("x.csv")) == (False, True)


BASE = {"x-ms-version": "2023-11-03", "x-ms-date": "Sun, 06 Nov 1994 08:49:37 GMT"}


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "signature"),
    [
        (
            "PUT",
            "azureml-blobstore/LocalUpload/a%20b/f.txt",
            {},
            {"x-ms-blob-type": "BlockBlob", "Content-Length": "5"},
            "suJxTPJbuJLCS70ey0SkBtT29sRN4micerRq26IACHU=",
        ),
        (
            "GET",
            "azureml",
            {"restype": "container", "comp": "list", "prefix": "ExperimentRun/dcid.j"},
            {},
            "QBAiAYW5qbSIYodBapSE5lpSgcQzkktq56ivNdDNaoQ=",
        ),
        (
            "PUT",
            "azureml/x",
            {"comp": "metadata"},
            {"x-ms-meta-upload_status": "completed", "x-ms-meta-name": "n", "Content-Length": "0"},
            "FBypxAzP6NsitlnNZsAFq5qJ4Ks4gIQqSYs9hkV+W8Y=",
        ),
    ],
)
def test_shared_key(
    method: str, path: str, query: dict[str, str], headers: dict[str, str], signature: str
) -> None:
    account = "tm00.blob.core.windows.net"
    key = base64.b64encode(b"0123456789abcdef" * 4).decode()
    container = Container(f"https://localhost:8445/{account}/azureml", Path("ca.pem"), key=key)
    assert sign(container, method, f"/{account}/{path}", query, {**BASE, **headers}) == (
        f"SharedKey {account}:{signature}"
    )
