"""Hashes, ignore files and signatures: the figures come from Azure's own clients."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tidemill.cli import hashing, ignore
from tidemill.cli.blob import Container, sign


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
    files = hashing.files_of(tree, excluded)
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
