"""A home backed up while jobs run and files come, its server killed, and a home made of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobserver import JobServer, until

NOBODY = 65534
TIDEMILL = str(Path(sys.executable).with_name("tidemill"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    made = JobServer(tmp_path_factory.mktemp("backed"))
    made.start()
    yield made
    made.end()


@pytest.fixture(scope="module")
def backup(server: JobServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made while one job runs, one waits, and two threads write and overwrite blobs; then a kill."""
    server.submit("done", "echo the end of it")
    assert server.wait("done")["status"] == "Completed"
    set_secret(server)
    user = server.cli("access", "create-user", "ann")
    assert user.returncode == 0, user.stderr
    given = server.cli("access", "grant", "ann", "AzureML Data Scientist")
    assert given.returncode == 0, given.stderr
    server.call("POST", f"{server.workspace}/none?api-version=1")  # a record of the activity log
    server.cluster("one", high=1)
    compute = f"{server.workspace}/computes/one"
    server.submit("runs", "echo began; sleep 600", computeId=compute)
    server.until_log("runs", "began")
    server.submit("waits", "echo it ran", computeId=compute)
    target = tmp_path_factory.mktemp("kept") / "home.tidemill-backup"
    with Writers(server):
        done = server.cli("backup", "create", "--to", str(target), "-o", "json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["jobs"] == 3
    assert facts["missing_blobs"] == 0
    server.kill()
    return target


class Writers:
    """Put and overwrite blobs all the time, as uploads do; each blob says its name in its bytes."""

    def __init__(self, server: JobServer) -> None:
        self._server, self._stop, self.rounds = server, threading.Event(), [0, 0]
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(2)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()
        until(lambda: min(self.rounds) > 1, what="some writes of each")

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, number: int) -> None:
        account = self._server.account()
        with self._server.blobs() as store:
            while not self._stop.is_set():
                for n in range(20):
                    name = f"busy/{number}/{n}"
                    data = f"{name} {self.rounds[number]}\n".encode() * 500
                    store.put_bytes(account, "azureml-blobstore", name, data)
                self.rounds[number] += 1


def set_secret(server: JobServer) -> None:
    argv = [TIDEMILL, "--home", str(server.home), "secret", "set", "word", "--value-stdin"]
    done = subprocess.run(argv, input="open-sesame\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_everything_is_there_and_new_jobs_run(server: JobServer, backup: Path, tmp_path: Path):
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert not (server.home / ".snapshots").exists()
    copy = JobServer(tmp_path / "elsewhere" / "copy")
    done = copy.cli("backup", "restore", str(backup))
    assert done.returncode == 0, done.stderr
    copy.start()
    try:
        assert copy.state["addresses"] != server.state["addresses"]
        assert copy.job("done")["status"] == "Completed"
        assert copy.log("done") == "the end of it\n"
        ended = copy.wait("runs")
        assert (ended["status"], ended["error"]["code"]) == ("Failed", "InterruptedByRestore")
        assert "ran when the backup was taken" in ended["error"]["message"]
        copy.check_ledger("runs")
        assert copy.wait("waits")["status"] == "Completed"
        assert copy.log("waits") == "it ran\n"
        files = copy.stored("busy/")
        assert len(files) == 40
        for name, data in files.items():
            lines = set(data.decode().splitlines())
            assert len(lines) == 1, f"{name} holds parts of several versions"
            assert lines.pop().startswith(f"busy/{name} ")
        copy.submit(
            "new",
            "echo $WORD | tr a-z A-Z",
            environmentVariables={"WORD": "${{secrets.word}}"},
        )
        assert copy.wait("new")["status"] == "Completed"
        assert copy.log("new") == "OPEN-SESAME\n"
        roles = copy.cli("access", "list", "--who", "ann", "-o", "json").stdout
        assert "AzureML Data Scientist" in roles
        whole = copy.call("GET", "/api/v1/activity/verify")[1]
        assert whole["broken"] is None
        assert whole["records"] > 3
        restored = copy.call("GET", "/api/v1/activity?what=home/restore")[1]["value"]
        assert [record["actor"] if "actor" in record else record["who"] for record in restored] == ["system"]
        assert not (copy.home / "restored.json").exists()
    finally:
        copy.end()


def test_the_home_that_it_was_made_of_goes_on(server: JobServer, backup: Path):
    server.start()
    assert server.job("runs")["status"] == "Running"
    server.cancel("runs")
    assert server.wait("runs")["status"] == "Canceled"


def test_a_home_that_is_not_empty_is_refused(server: JobServer, backup: Path, tmp_path: Path):
    (tmp_path / "mine").write_text("kept")
    done = JobServer(tmp_path).cli("backup", "restore", str(backup))
    assert done.returncode == 4
    assert f"{tmp_path} is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    done = server.cli("backup", "restore", str(backup))
    assert done.returncode == 4


def test_damage_is_found_before_anything_is_written(backup: Path, tmp_path: Path):
    raw = backup.read_bytes()
    at = raw.index(b"\nbusy/1/7 ") + 1  # in a blob
    damaged = tmp_path / "damaged"
    for data, word in (
        (raw[:at] + b"BUSY" + raw[at + 4 :], "blobs/files/"),
        (raw[: len(raw) * 3 // 4], "damaged"),
        (raw[: raw.rindex(b"manifest")], "damaged"),
    ):
        damaged.write_bytes(data)
        home = JobServer(tmp_path / "home")
        done = home.cli("backup", "restore", str(damaged))
        assert done.returncode == 4, done.stdout
        assert "is damaged" in done.stderr
        assert word in done.stderr
        assert not home.home.exists()
    damaged.write_bytes(raw.replace(b'"format": 1', b'"format": 9', 1))
    done = JobServer(tmp_path / "home").cli("backup", "restore", str(damaged))
    assert done.returncode == 4
    assert "newer than this one" in done.stderr
    damaged.write_text("no backup at all")
    done = JobServer(tmp_path / "home").cli("backup", "restore", str(damaged))
    assert done.returncode == 4
    assert "is no backup of Tidemill" in done.stderr


def test_an_encrypted_one_opens_with_its_passphrase_alone(server: JobServer, backup: Path, tmp_path: Path):
    words, other = tmp_path / "words", tmp_path / "other"
    words.write_text("correct horse\n")
    other.write_text("wrong horse\n")
    with server.blobs() as store:  # its size does not depend on how far the writers came
        store.put_bytes(server.account(), "azureml-blobstore", "large", os.urandom(3 << 20))
    file = tmp_path / "sealed"
    done = server.cli("backup", "create", "--to", str(file), "--passphrase-file", str(words))
    assert done.returncode == 0, done.stderr
    master = (server.home / "secrets" / "master.key").read_bytes().strip()
    assert master in backup.read_bytes()
    assert master not in file.read_bytes()
    home = JobServer(tmp_path / "home")
    done = home.cli("backup", "restore", str(file), "--passphrase-file", str(other))
    assert done.returncode == 4
    assert "not the one that this backup was made with" in done.stderr
    done = home.cli("backup", "restore", str(file))
    assert done.returncode == 2
    cut = tmp_path / "cut"
    cut.write_bytes(file.read_bytes()[: -(1 << 20)])
    done = home.cli("backup", "restore", str(cut), "--passphrase-file", str(words))
    assert done.returncode == 4
    assert "damaged" in done.stderr
    done = home.cli("backup", "restore", str(file), "--passphrase-file", str(words))
    assert done.returncode == 0, done.stderr
    assert (home.home / "secrets" / "master.key").read_bytes().strip() == master


def test_a_killed_backup_leaves_nothing_for_long(server: JobServer, tmp_path: Path):
    kept = tmp_path / "kept"
    kept.mkdir()
    account = server.account()
    with server.blobs() as store:
        store.put_bytes(account, "azureml-blobstore", "endless", b"x")
        (blob,) = store.list(account, "azureml-blobstore", "endless").blobs
        file = store.path_of(blob)
    argv = [TIDEMILL, "--home", str(server.home), "backup", "create", "--to", str(kept)]
    file.rename(tmp_path / "aside")
    os.mkfifo(file)  # however fast it is, it does not get beyond this one
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until(lambda: list(kept.glob(".*.part")), what="a part of the backup")
    process.send_signal(signal.SIGKILL)
    process.wait()
    file.unlink()
    (tmp_path / "aside").rename(file)
    assert list(kept.glob("*.tidemill-backup")) == []
    done = server.cli("backup", "create", "--to", str(kept))
    assert done.returncode == 0, done.stderr
    assert [path.suffix for path in kept.iterdir()] == [".tidemill-backup"]
    assert not (server.home / ".snapshots").exists()


def test_what_is_no_home(tmp_path: Path):
    done = JobServer(tmp_path / "none").cli("backup", "create")
    assert done.returncode == 3
    assert "is no Tidemill home" in done.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root backs up somebody else's home")
def test_root_leaves_nothing_of_its_own_in_somebodys_home(tmp_path: Path):
    made = JobServer(tmp_path / "theirs")
    made.start()
    made.submit("one", "echo one")
    made.wait("one")
    made.end()
    shutil.rmtree(made.home / "nodes", ignore_errors=True)
    for path in (made.home, *made.home.rglob("*")):
        os.lchown(path, NOBODY, NOBODY)
    done = made.cli("backup", "create", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["file"]).parent == made.home / "backups"
    owners = {str(path): path.lstat().st_uid for path in (made.home, *made.home.rglob("*"))}
    assert set(owners.values()) == {NOBODY}, [p for p, uid in owners.items() if uid != NOBODY]
