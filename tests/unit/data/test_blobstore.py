"""BlobStore by itself: what is stored, listed, copied, refused and swept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill.data.blobmodel import BlobInfo, BlobProperties, BlockRef
from tidemill.data.blobstore import BlobStore
from tidemill.domain.errors import Conflict, InvalidRequest, NotFound

PLACE = ("tm01", "box")
HOUR = 3600 * 1_000_000


class Clock:
    def __init__(self) -> None:
        import time

        self.at = time.time_ns() // 1000

    def __call__(self) -> int:
        self.at += 1
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[BlobStore]:
    store = BlobStore(tmp_path / "blobs", clock)
    store.ensure_container(*PLACE)
    yield store
    store.close()


def names(store: BlobStore, **query: object) -> list[str]:
    return [info.name for info in store.list(*PLACE, **query).blobs]  # type: ignore[arg-type]


def files(store: BlobStore) -> int:
    return sum(1 for path in (store.root / "files").rglob("*") if path.is_file())


class TestWriting:
    def test_a_blob_and_what_is_known_of_it(self, store: BlobStore) -> None:
        info = store.put_bytes(*PLACE, "a/b.txt", b"hello", metadata={"k": "v"}, content_type="text/plain")
        assert store.get(*PLACE, "a/b.txt") == info
        assert (info.size, info.md5, info.metadata) == (5, hashlib.md5(b"hello").digest(), {"k": "v"})
        assert store.read_bytes(*PLACE, "a/b.txt") == b"hello"
        assert store.path_of(info).read_bytes() == b"hello"

    def test_overwriting_leaves_one_file_and_a_new_etag(self, store: BlobStore) -> None:
        first = store.put_bytes(*PLACE, "x", b"1")
        second = store.put_bytes(*PLACE, "x", b"2")
        assert first.etag != second.etag
        assert second.created_at == first.created_at
        assert not store.path_of(first).exists()
        assert files(store) == 1

    def test_an_open_reader_keeps_the_old_bytes(self, store: BlobStore) -> None:
        store.put_bytes(*PLACE, "x", b"old")
        opened = store.open(*PLACE, "x")
        assert opened is not None
        store.put_bytes(*PLACE, "x", b"new")
        assert os.pread(opened[1], 10, 0) == b"old"
        os.close(opened[1])

    def test_nothing_is_stored_without_its_container(self, store: BlobStore) -> None:
        with pytest.raises(NotFound) as error:
            store.put_bytes("tm01", "nowhere", "x", b"1")
        assert error.value.code == "ContainerNotFound"
        assert files(store) == 0

    def test_a_refused_write_leaves_the_old_blob_and_no_file(self, store: BlobStore) -> None:
        store.put_bytes(*PLACE, "x", b"old")

        def refuse(info: BlobInfo | None) -> None:
            raise Conflict("no")

        upload = store.begin_upload()
        upload.write([b"new"])
        with pytest.raises(Conflict):
            store.commit_upload(upload, *PLACE, "x", BlobProperties(), check=refuse)
        assert store.read_bytes(*PLACE, "x") == b"old"
        assert files(store) == 1

    @pytest.mark.parametrize(
        ("first", "second"), [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b"), ("a", "a/b/c")]
    )
    def test_a_file_beside_a_folder(self, store: BlobStore, first: str, second: str) -> None:
        store.put_bytes(*PLACE, first, b"")
        with pytest.raises(Conflict) as error:
            store.put_bytes(*PLACE, second, b"")
        assert repr(first) in error.value.message
        store.delete(*PLACE, first)
        store.put_bytes(*PLACE, second, b"")

    @pytest.mark.parametrize("name", ["", "n" * 1025, "nul\0", "half\ud800"])
    def test_names_that_are_refused(self, store: BlobStore, name: str) -> None:
        with pytest.raises(InvalidRequest):
            store.put_bytes(*PLACE, name, b"")
        assert files(store) == 0

    def test_deleting(self, store: BlobStore) -> None:
        store.put_bytes(*PLACE, "x", b"1")
        assert store.delete(*PLACE, "x") is True
        assert store.delete(*PLACE, "x") is False
        assert files(store) == 0

    def test_an_account_goes_with_all_it_holds(self, store: BlobStore) -> None:
        store.put_bytes(*PLACE, "x", b"1")
        store.ensure_container("tm02", "box")
        store.put_bytes("tm02", "box", "x", b"2")
        store.delete_account("tm01")
        assert store.account_scope("tm01") is None
        assert store.containers("tm01") == []
        assert store.read_bytes("tm02", "box", "x") == b"2"
        assert files(store) == 1

    def test_many_threads(self, store: BlobStore) -> None:
        def write(worker: int) -> None:
            for number in range(30):
                store.put_bytes(*PLACE, f"{worker}/{number}", f"{worker}-{number}".encode())

        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(names(store)) == 240
        assert store.read_bytes(*PLACE, "7/29") == b"7-29"


_SECOND_PROCESS = """
import sys, time
from pathlib import Path
from tidemill.data.blobstore import BlobStore
store = BlobStore(Path(sys.argv[1]), lambda: time.time_ns() // 1000)
for number in range(100):
    store.put_bytes("tm01", "box", f"p{sys.argv[2]}/{number}", sys.argv[2].encode())
    store.put_bytes("tm01", "box", "shared", sys.argv[2].encode())
    assert store.read_bytes("tm01", "box", "shared") in (b"1", b"2")
store.close()
"""


def test_two_processes_write_at_once(store: BlobStore) -> None:
    argv = [sys.executable, "-c", _SECOND_PROCESS, str(store.root)]
    running = [subprocess.Popen([*argv, number]) for number in "12"]
    assert [process.wait(110) for process in running] == [0, 0]
    assert len(names(store)) == 201
    assert store.read_bytes(*PLACE, "shared") in (b"1", b"2")
    assert files(store) == 201


class TestBlocks:
    def stage(self, store: BlobStore, block_id: str, data: bytes) -> None:
        upload = store.begin_upload(len(data))
        upload.write([data])
        store.stage_block(upload, *PLACE, "big", block_id)

    def commit(self, store: BlobStore, *refs: tuple[str, str]) -> BlobInfo:
        return store.commit_blocks(*PLACE, "big", [BlockRef(*ref) for ref in refs], BlobProperties())

    def test_uncommitted_blocks_are_no_blob(self, store: BlobStore) -> None:
        self.stage(store, "AA==", b"one")
        assert store.get(*PLACE, "big") is None
        assert names(store) == []
        assert names(store, uncommitted=True) == ["big"]

    def test_committed_ones_can_be_used_again(self, store: BlobStore) -> None:
        self.stage(store, "AA==", b"one")
        self.stage(store, "BB==", b"two")
        self.commit(store, ("BB==", "Latest"), ("AA==", "Uncommitted"), ("BB==", "Latest"))
        assert store.read_bytes(*PLACE, "big") == b"twoonetwo"
        self.stage(store, "AA==", b"new")
        self.commit(store, ("AA==", "Committed"), ("AA==", "Latest"))
        assert store.read_bytes(*PLACE, "big") == b"onenew"
        assert files(store) == 1

    def test_a_missing_block_changes_nothing(self, store: BlobStore) -> None:
        self.stage(store, "AA==", b"one")
        with pytest.raises(InvalidRequest) as error:
            self.commit(store, ("AA==", "Latest"), ("ZZ==", "Latest"))
        assert (error.value.code, "'ZZ=='" in error.value.message) == ("InvalidBlockList", True)
        self.commit(store, ("AA==", "Latest"))

    def test_ids_of_one_length(self, store: BlobStore) -> None:
        self.stage(store, "AA==", b"one")
        with pytest.raises(InvalidRequest, match="same length"):
            self.stage(store, "AAAAAA==", b"two")
        assert files(store) == 1

    def test_they_expire_after_a_week(self, store: BlobStore, clock: Clock) -> None:
        self.stage(store, "AA==", b"one")
        clock.at += 8 * 24 * HOUR
        assert store.sweep() == 1
        with pytest.raises(NotFound):
            store.blocks(*PLACE, "big")
        assert files(store) == 0


class TestTrees:
    def test_there_and_back(self, store: BlobStore, tmp_path: Path) -> None:
        source = tmp_path / "in"
        (source / "sub" / "deep").mkdir(parents=True)
        (source / "a.txt").write_bytes(b"a")
        (source / "sub" / "deep" / "b.bin").write_bytes(os.urandom(100_000))
        infos = store.put_tree(*PLACE, "out/x", source)
        assert [info.name for info in infos] == ["out/x/a.txt", "out/x/sub/deep/b.bin"]
        assert store.copy_out(*PLACE, "out/x", tmp_path / "back") == 100_001
        assert (tmp_path / "back" / "sub" / "deep" / "b.bin").read_bytes() == (
            source / "sub" / "deep" / "b.bin"
        ).read_bytes()
        assert store.copy_out(*PLACE, "out/x/a.txt", tmp_path / "one.txt") == 1

    def test_moving_takes_the_files_over(self, store: BlobStore, tmp_path: Path) -> None:
        source = tmp_path / "in"
        source.mkdir()
        (source / "a").write_bytes(b"a")
        inode = (source / "a").stat().st_ino
        (info,) = store.put_tree(*PLACE, "", source, move=True)
        assert list(source.iterdir()) == []
        assert store.path_of(info).stat().st_ino == inode
        assert store.read_bytes(*PLACE, "a") == b"a"

    def test_a_file_with_another_name_is_copied_not_taken(self, store: BlobStore, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"before")
        os.link(tmp_path / "a", tmp_path / "kept")
        store.put_file(*PLACE, "a", tmp_path / "a", move=True)
        (tmp_path / "kept").write_bytes(b"after!")
        assert store.read_bytes(*PLACE, "a") == b"before"

    def test_links_and_pipes(self, store: BlobStore, tmp_path: Path) -> None:
        source = tmp_path / "in"
        source.mkdir()
        (tmp_path / "secret").write_bytes(b"secret")
        (source / "real").write_bytes(b"real")
        (source / "inside").symlink_to("real")
        (source / "outside").symlink_to(tmp_path / "secret")
        (source / "folder").symlink_to(tmp_path)
        os.mkfifo(source / "pipe")
        told: dict[str, str] = {}
        infos = store.put_tree(*PLACE, "", source, skipped=told.__setitem__)
        assert [info.name for info in infos] == ["inside", "real"]
        assert set(told) == {"outside", "folder", "pipe"}
        with pytest.raises(InvalidRequest, match="regular file"):
            store.put_file(*PLACE, "x", source / "outside")

    @pytest.mark.parametrize("name", ["d/../../evil", "d//x", "d/./x", "d/" + "n" * 300])
    def test_names_that_would_leave_the_folder(self, store: BlobStore, tmp_path: Path, name: str) -> None:
        store.put_bytes(*PLACE, name, b"x")
        with pytest.raises(InvalidRequest) as error:
            store.copy_out(*PLACE, "d", tmp_path / "deep" / "out")
        assert error.value.code == "UnsafeName"
        assert not (tmp_path / "evil").exists()

    def test_nothing_there(self, store: BlobStore, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="'no/such'"):
            store.copy_out(*PLACE, "no/such", tmp_path / "out")

    def test_all_or_none(self, store: BlobStore, tmp_path: Path) -> None:
        source = tmp_path / "in"
        (source / "a").mkdir(parents=True)
        (source / "a" / "b").write_bytes(b"")
        (source / "z").write_bytes(b"")
        store.put_bytes(*PLACE, "z/taken", b"")
        with pytest.raises(Conflict):
            store.put_tree(*PLACE, "", source)
        assert names(store) == ["z/taken"]
        assert files(store) == 1


class TestSweep:
    def orphan(self, store: BlobStore) -> Path:
        upload = store.begin_upload()
        upload.write([b"half"])
        upload.close()
        return upload.path

    def test_young_files_stay_old_ones_go(self, store: BlobStore, clock: Clock) -> None:
        info = store.put_bytes(*PLACE, "kept", b"kept")
        path = self.orphan(store)
        assert store.sweep() == 0
        assert path.exists()
        clock.at += HOUR
        assert store.sweep() == 1
        assert not path.exists()
        assert store.path_of(info).read_bytes() == b"kept"

    def test_a_file_that_is_being_written_stays(self, store: BlobStore, clock: Clock) -> None:
        upload = store.begin_upload()
        upload.write([b"slow"])
        clock.at += HOUR
        assert store.sweep() == 0
        info = store.commit_upload(upload, *PLACE, "slow", BlobProperties())
        assert store.path_of(info).read_bytes() == b"slow"

    def test_what_a_dead_writer_left_goes_later(self, store: BlobStore, clock: Clock) -> None:
        upload = store.begin_upload()
        clock.at += HOUR
        assert store.sweep() == 0
        upload.close()  # as a kill does
        clock.at += HOUR
        assert store.sweep() == 1


class TestAppend:
    def test_appends_of_many_threads_are_all_there(self, store: BlobStore) -> None:
        empty = store.begin_upload()
        store.commit_upload(empty, *PLACE, "log", BlobProperties(), kind="AppendBlob")

        def write(worker: int) -> None:
            for number in range(10):
                upload = store.begin_upload()
                upload.write([f"{worker}{number}\n".encode()])
                store.append(*PLACE, "log", upload)

        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = (store.read_bytes(*PLACE, "log") or b"").decode().split()
        assert sorted(lines) == sorted(f"{worker}{number}" for worker in range(4) for number in range(10))
        info = store.get(*PLACE, "log")
        assert info is not None
        assert info.parts == 40

    def test_bytes_of_an_append_that_was_never_committed_are_not_seen(self, store: BlobStore) -> None:
        empty = store.begin_upload()
        info = store.commit_upload(empty, *PLACE, "log", BlobProperties(), kind="AppendBlob")
        with store.path_of(info).open("ab") as file:
            file.write(b"torn")
        assert store.read_bytes(*PLACE, "log") == b""
        upload = store.begin_upload()
        upload.write([b"x"])
        store.append(*PLACE, "log", upload)
        assert store.read_bytes(*PLACE, "log") == b"x"
