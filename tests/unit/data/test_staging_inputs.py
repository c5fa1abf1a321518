"""Inputs and code become copies in an attempt's directory."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from tidemill.data.blobstore import BlobStore
from tidemill.data.staging import download, stage_code, stage_inputs
from tidemill.domain.errors import InvalidRequest, NotFound, NotOffered
from tidemill.domain.plan import Place, PlannedInput


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[BlobStore]:
    store = BlobStore(tmp_path / "blobs", lambda: 1_800_000_000_000_000)
    store.ensure_container("acct", "c")
    store.put_bytes("acct", "c", "data/train.csv", b"1,2\n")
    store.put_bytes("acct", "c", "data/more/x.csv", b"3\n")
    store.put_bytes("acct", "c", "database.csv", b"not this\n")
    yield store
    store.close()


def planned(path: str, kind: str = "uri_file", mode: str = "ro_mount", name: str = "d") -> PlannedInput:
    return PlannedInput(name, kind, mode, path, place=Place("acct", "c", path), uri=f"azureml://x/{path}")


def test_a_file_a_folder_a_literal_and_an_address(blobs, tmp_path):
    literal = PlannedInput("k", "literal", "ro_mount", "7", literal="7")
    staged = stage_inputs(
        blobs,
        [
            planned("data/train.csv"),
            planned("data/", "uri_folder", name="all"),
            planned("data/", "uri_folder", "direct", name="uri"),
            literal,
        ],
        tmp_path / "inputs",
    )
    assert staged.values == {
        "d": str(tmp_path / "inputs/d/train.csv"),
        "all": str(tmp_path / "inputs/all"),
        "uri": "azureml://x/data/",
        "k": "7",
    }
    assert Path(staged.values["d"]).read_text() == "1,2\n"
    found = sorted(p.relative_to(tmp_path / "inputs/all") for p in (tmp_path / "inputs/all").rglob("*.csv"))
    assert found == [Path("more/x.csv"), Path("train.csv")]
    assert staged.copied_bytes == 4 + 4 + 2
    assert len(staged.notes) == 1
    assert "d, all" in staged.notes[0]


@pytest.mark.parametrize(("mode", "writable"), [("ro_mount", False), ("rw_mount", True), ("download", True)])
def test_the_copy_is_read_only_where_asked_and_the_store_never_changes(blobs, tmp_path, mode, writable):
    staged = stage_inputs(blobs, [planned("data/train.csv", mode=mode)], tmp_path)
    copy = Path(staged.values["d"])
    assert bool(copy.stat().st_mode & 0o222) is writable
    copy.chmod(0o644)
    copy.write_text("changed")
    assert blobs.read_bytes("acct", "c", "data/train.csv") == b"1,2\n"


def test_nothing_can_be_added_to_a_folder_that_is_read_only(blobs, tmp_path):
    stage_inputs(blobs, [planned("data/", "uri_folder", mode="ro_mount")], tmp_path / "inputs")
    folders = [path for path in (tmp_path / "inputs" / "d").rglob("*") if path.is_dir()]
    folders.append(tmp_path / "inputs" / "d")
    assert len(folders) == 2
    for folder in folders:
        assert not folder.stat().st_mode & 0o222, folder


def test_staging_again_replaces_what_was_left(blobs, tmp_path):
    for _ in range(2):
        stage_inputs(blobs, [planned("data/", "uri_folder")], tmp_path)
        (tmp_path / "d").chmod(0o755)
        (tmp_path / "d" / "left-over").write_text("x")
    stage_inputs(blobs, [planned("data/", "uri_folder")], tmp_path)
    assert not (tmp_path / "d" / "left-over").exists()


def test_models_are_files_or_folders(blobs, tmp_path):
    staged = stage_inputs(
        blobs,
        [planned("data/train.csv", "custom_model"), planned("data", "mlflow_model", name="m")],
        tmp_path,
    )
    assert Path(staged.values["d"]).is_file()
    assert (Path(staged.values["m"]) / "train.csv").is_file()


def test_nothing_there_is_said(blobs, tmp_path):
    with pytest.raises(NotFound, match=r"Input 'd'.*nothing is stored"):
        stage_inputs(blobs, [planned("nope/", "uri_folder")], tmp_path)
    with pytest.raises(NotFound, match="there is no file at data/none"):
        stage_inputs(blobs, [planned("data/none")], tmp_path)
    with pytest.raises(NotOffered, match="eval_mount"):
        stage_inputs(blobs, [planned("data/train.csv", mode="eval_mount")], tmp_path)


def test_code_is_a_folder_or_one_file(blobs, tmp_path):
    (tmp_path / "code").mkdir()
    assert stage_code(blobs, Place("acct", "c", "data"), tmp_path / "code") == 6
    assert (tmp_path / "code/more/x.csv").is_file()
    stage_code(blobs, Place("acct", "c", "database.csv"), tmp_path / "code")
    assert [p.name for p in (tmp_path / "code").iterdir()] == ["database.csv"]
    with pytest.raises(NotFound, match="The code folder"):
        stage_code(blobs, Place("acct", "c", "nope"), tmp_path / "code")


class Site(http.server.BaseHTTPRequestHandler):
    calls: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Site.calls.append(self.path)
        if self.path.startswith("/flaky") and Site.calls.count(self.path) < 2:
            self.send_error(503)
        elif self.path.startswith("/missing"):
            self.send_error(404)
        elif self.path.startswith("/secret"):
            self.send_error(403)
        elif self.path.startswith("/short"):
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(b"12345")
        else:
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    Site.calls = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_a_web_address_becomes_a_file(blobs, tmp_path, site):
    item = PlannedInput("w", "uri_file", "download", "", url=f"{site}/dir/my%20data.csv?sig=1")
    staged = stage_inputs(blobs, [item], tmp_path)
    assert staged.values["w"] == str(tmp_path / "w/my data.csv")
    assert Path(staged.values["w"]).read_bytes() == b"hello"
    assert staged.copied_bytes == 5


def test_what_may_pass_is_tried_again_and_the_rest_is_not(tmp_path, site):
    waits: list[float] = []
    assert download(f"{site}/flaky", tmp_path / "f", wait=waits.append) == 5
    assert Site.calls == ["/flaky"] * 2
    assert len(waits) == 1
    with pytest.raises(NotFound, match="404"):
        download(f"{site}/missing", tmp_path / "f", wait=waits.append)
    with pytest.raises(InvalidRequest, match="403"):
        download(f"{site}/secret", tmp_path / "f", wait=waits.append)
    assert Site.calls.count("/missing") == 1
    assert Site.calls.count("/secret") == 1


def test_a_file_is_whole_or_absent(tmp_path, site):
    with pytest.raises(InvalidRequest, match="5 of 10 bytes"):
        download(f"{site}/short", tmp_path / "f", wait=lambda seconds: None)
    with pytest.raises(InvalidRequest, match="more than 3 bytes"):
        download(f"{site}/big", tmp_path / "f", limit=3)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_site_is_named(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(InvalidRequest, match=f"{url} could not be read"):
            download(url, tmp_path / "f", wait=lambda seconds: None)
