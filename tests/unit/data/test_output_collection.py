"""What a job wrote is stored, and nothing else is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill.data.blobstore import BlobStore
from tidemill.data.outputs import collect_artifacts, collect_logs, collect_outputs, prepare_outputs
from tidemill.domain.plan import Place, PlannedOutput


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[BlobStore]:
    store = BlobStore(tmp_path / "blobs", lambda: 1_800_000_000_000_000)
    for container in ("azureml-blobstore", "azureml"):
        store.ensure_container("acct", container)
    yield store
    store.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "attempt" / "outputs").mkdir(parents=True)
    return tmp_path / "attempt"


def output(name: str, kind: str = "uri_folder", mode: str = "rw_mount") -> PlannedOutput:
    path = f"azureml/j/{name}/" + (name if kind == "uri_file" else "")
    return PlannedOutput(name, kind, mode, Place("acct", "azureml-blobstore", path), f"azureml://x/{path}")


def names(blobs: BlobStore, container: str) -> list[str]:
    return [blob.name for blob in blobs.list("acct", container).blobs]


def test_folders_files_and_addresses(blobs, root):
    outputs = [output("model"), output("score", "uri_file"), output("there", mode="direct")]
    values = prepare_outputs(outputs, root / "outputs")
    assert values["there"] == "azureml://x/azureml/j/there/"
    Path(values["model"], "deep").mkdir()
    Path(values["model"], "deep", "w.bin").write_bytes(b"123")
    Path(values["score"]).write_text("0.9")
    stored = collect_outputs(blobs, outputs, root / "outputs", True)
    assert stored["model"].files == (("deep/w.bin", 3),)
    assert stored["model"].bytes == 3
    assert stored["score"].files == (("score", 3),)
    assert "there" not in stored
    assert names(blobs, "azureml-blobstore") == ["azureml/j/model/deep/w.bin", "azureml/j/score/score"]
    assert blobs.read_bytes("acct", "azureml-blobstore", "azureml/j/score/score") == b"0.9"
    # Again, as a controller that died half-way does it.
    assert collect_outputs(blobs, outputs, root / "outputs", True)["model"].files == stored["model"].files


def test_a_file_that_changes_afterwards_does_not_change_what_is_stored(blobs, root):
    values = prepare_outputs([output("model")], root / "outputs")
    file = Path(values["model"], "w.bin")
    file.write_bytes(b"123")
    with file.open("r+b") as still_open:
        collect_outputs(blobs, [output("model")], root / "outputs", True)
        still_open.write(b"xxx")
    assert blobs.read_bytes("acct", "azureml-blobstore", "azureml/j/model/w.bin") == b"123"


def test_links_out_and_things_that_are_no_files_are_left_out_and_named(blobs, root, tmp_path):
    (tmp_path / "secret").write_text("key")
    folder = Path(prepare_outputs([output("o")], root / "outputs")["o"])
    (folder / "real").write_text("r")
    (folder / "inside").symlink_to("real")
    (folder / "outside").symlink_to(tmp_path / "secret")
    (folder / "etc").symlink_to("/etc")
    os.mkfifo(folder / "pipe")
    stored = collect_outputs(blobs, [output("o")], root / "outputs", True)["o"]
    assert [path for path, _ in stored.files] == ["inside", "real"]
    assert len(stored.notes) == 1
    for word in ("outside", "etc", "pipe"):
        assert word in stored.notes[0]


@pytest.mark.parametrize("kind", ["uri_folder", "uri_file"])
def test_a_folder_replaced_by_a_link_is_not_followed(blobs, root, tmp_path, kind):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "o").write_text("secret")
    (root / "outputs" / "o").symlink_to(elsewhere)
    stored = collect_outputs(blobs, [output("o", kind)], root / "outputs", True)["o"]
    assert stored.files == ()
    assert "link" in stored.notes[0]
    assert names(blobs, "azureml-blobstore") == []


def test_what_was_not_written_is_said(blobs, root):
    outputs = [output("o"), output("f", "uri_file"), output("default")]
    prepare_outputs(outputs, root / "outputs")
    stored = collect_outputs(blobs, outputs, root / "outputs", True)
    assert "is empty" in stored["o"].notes[0]
    assert "no file" in stored["f"].notes[0]
    assert stored["default"].notes == ()


def test_files_without_read_bits_are_stored(blobs, root):
    folder = Path(prepare_outputs([output("o")], root / "outputs")["o"])
    (folder / "sub").mkdir()
    (folder / "sub" / "f").write_text("x")
    (folder / "sub" / "f").chmod(0)
    (folder / "sub").chmod(0)
    assert collect_outputs(blobs, [output("o")], root / "outputs", True)["o"].files == (("sub/f", 1),)


def test_logs_and_artifacts_go_where_a_download_looks(blobs, root):
    artifacts = Place("acct", "azureml", "ExperimentRun/dcid.j/")
    (root / "logs" / "user_logs").mkdir(parents=True)
    (root / "logs" / "user_logs" / "std_log.txt").write_text("hello\n")
    for name in ("outputs", "logs"):
        (root / "code" / name).mkdir(parents=True)
        (root / "code" / name / "x.txt").write_text(name)
    assert collect_logs(blobs, artifacts, root / "logs") == (("user_logs/std_log.txt", 6),)
    stored = collect_artifacts(blobs, artifacts, root / "code", root)
    assert stored.files == (("outputs/x.txt", 7), ("logs/x.txt", 4))
    assert names(blobs, "azureml") == [
        "ExperimentRun/dcid.j/logs/x.txt",
        "ExperimentRun/dcid.j/outputs/x.txt",
        "ExperimentRun/dcid.j/user_logs/std_log.txt",
    ]


def test_a_working_directory_that_became_a_link_is_not_followed(blobs, root, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "outputs"
    elsewhere.mkdir(parents=True)
    (elsewhere / "x").write_text("secret")
    (root / "code").symlink_to(elsewhere.parent)
    stored = collect_artifacts(blobs, Place("acct", "azureml", "r/"), root / "code", root)
    assert stored.files == ()
    assert names(blobs, "azureml") == []
