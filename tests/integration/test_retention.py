"""Rules of retention on a real server: what goes, and what stays because something needs it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from jobserver import JobServer

from tidemill.environments.built import EnvironmentRecord, write_record

DAY_US = 86_400_000_000
OLD, USED = "a" * 40, "b" * 40  # digests of environments


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    made = JobServer(tmp_path_factory.mktemp("retention"))
    made.start()
    for name in ("old", "young", "named"):
        made.submit(name, f"echo {name}; echo kept > outputs/model.txt")
        assert made.wait(name)["status"] == "Completed"
    body = {
        "properties": {
            "modelType": "custom_model",
            "modelUri": "azureml://jobs/named/outputs/artifacts/paths/outputs/model.txt",
        }
    }
    status, answer = made.arm("PUT", "models/m/versions/1", body)
    assert status in (200, 201), answer
    for name in ("unused", "used"):
        status, answer = made.arm("POST", f"codes/{name}/versions/1/startPendingUpload", {})
        assert status == 200, answer
        if name == "used":
            uri = answer["blobReferenceForConsumption"]["blobUri"]
            status, answer = made.arm(
                "PUT", "codes/used/versions/1", {"properties": {"codeUri": f"{uri}/src"}}
            )
            assert status in (200, 201), answer
    made.down()
    age(made)
    environments(made)
    made.start()
    made.submit("lives", "echo lives; sleep 600")
    made.until_log("lives", "lives")
    made.until_state("lives", "Running")  # from here on nothing of it changes
    yield made
    made.end()


def age(server: JobServer) -> None:
    """As if two of the jobs had ended, and all containers been made, 100 days ago; the third job used one of
    the environments."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(server.home / "db" / "tidemill.db")) as db:
        for name in ("old", "named"):
            [(uid, raw)] = db.execute(
                "SELECT uid, status FROM resources WHERE type_key='jobs' AND name=?", (name,)
            )
            status = json.loads(raw)
            status["progress"]["ended_at"] -= 100 * DAY_US
            db.execute("UPDATE resources SET status=? WHERE uid=?", (json.dumps(status).encode(), uid))
        [(uid, raw)] = db.execute("SELECT uid, status FROM resources WHERE type_key='jobs' AND name='young'")
        status = json.loads(raw)
        status["plan"].setdefault("environment", {})["digest"] = USED
        db.execute("UPDATE resources SET status=? WHERE uid=?", (json.dumps(status).encode(), uid))
        db.commit()
    with closing(sqlite3.connect(server.home / "blobs" / "index.db")) as db:
        db.execute("UPDATE containers SET modified_at = modified_at - ?", (100 * DAY_US,))
        db.commit()


def environments(server: JobServer) -> None:
    built_at = time.time_ns() // 1000 - 100 * DAY_US
    for digest in (OLD, USED):
        folder = server.home / "envs" / digest
        (folder / ".tidemill").mkdir(parents=True)
        (folder / "bin").mkdir()
        (folder / "bin" / "python").symlink_to(sys.executable)
        write_record(folder, EnvironmentRecord(digest, "3.11", "/usr", built_at=built_at, size=5))
        owner = (server.home / "config.json").stat()
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def gc(server: JobServer, *words: str) -> dict[str, dict[str, Any]]:
    done = server.cli("gc", *words, "-o", "json")
    assert done.returncode == 0, done.stderr
    return {
        f"{row['kind']} {row['name'].split(' ')[0].split('/')[-1]}": row for row in json.loads(done.stdout)
    }


def test_without_rules_nothing_goes(server: JobServer):
    assert gc(server) == {}
    assert gc(server, "--apply") == {}
    assert server.log("old") == "old\n"


def test_what_goes_and_what_stays(server: JobServer):
    done = server.cli(
        "retention",
        "set",
        "--environments-days",
        "30",
        "--job-files-days",
        "90",
        "--uploads-days",
        "7",
        "--backups-keep",
        "1",
    )
    assert done.returncode == 0, done.stderr
    for number in range(2):
        done = server.cli("backup", "create", "-o", "json")
        assert done.returncode == 0, done.stderr
        file = json.loads(done.stdout)["file"]
        os.utime(file, (time.time() - 1000 + number, time.time() - 1000 + number))
    all_of_it = gc(server, "--all")
    assert all_of_it["job-files old"]["remove"] is True
    assert "kept for 90" in all_of_it["job-files old"]["why"]
    assert all_of_it["job-files young"]["remove"] is False
    assert all_of_it["job-files named"]["why"] == "It is needed by models/versions m:1."
    assert "job-files lives" not in all_of_it
    assert all_of_it[f"environment {OLD}"]["remove"] is True
    assert all_of_it[f"environment {USED}"]["remove"] is False
    uploads = [row for name, row in all_of_it.items() if name.startswith("upload ")]
    assert sorted(row["remove"] for row in uploads) == [False, True]
    assert sum(row["remove"] for name, row in all_of_it.items() if name.startswith("backup ")) == 1
    before = server.sql("SELECT count(*), sum(revision) FROM resources")
    assert {name for name, row in gc(server).items() if not row["remove"]} == set()
    assert server.sql("SELECT count(*), sum(revision) FROM resources") == before, "a dry run writes nothing"
    gone = gc(server, "--apply")
    assert set(gone) == {name for name, row in all_of_it.items() if row["remove"]}
    assert gc(server) == {}
    assert server.stored("ExperimentRun/dcid.old/", "azureml") == {}
    assert server.job("old")["logs"] == []
    assert "removed by the rules of retention" in server.job("old")["timeline"][-1]["message"]
    assert server.log("young") == "young\n"
    assert server.log("named") == "named\n"
    assert server.stored("ExperimentRun/dcid.named/outputs/", "azureml") == {"model.txt": b"kept\n"}
    assert len(list((server.home / "backups").iterdir())) == 1
    assert [path.name for path in (server.home / "envs").glob("*[ab]" * 4)] == [USED]
    assert server.job("lives")["status"] == "Running"
    assert server.call("GET", "/api/v1/activity/verify")[1]["broken"] is None


def test_a_kill_in_the_middle_is_finished_the_next_time(server: JobServer):
    """The row has said that the files go, and the server is killed before they have gone."""
    old = server.sql("SELECT status FROM resources WHERE type_key='jobs' AND name='old'")[0][0]
    place = json.loads(old)["plan"]["artifacts"]
    with server.blobs() as store:
        store.put_bytes(
            place["account"], place["container"], place["path"] + "user_logs/std_log.txt", b"left"
        )
    server.kill()
    server.start()
    assert set(gc(server)) == {"job-files old"}
    assert set(gc(server, "--apply")) == {"job-files old"}
    assert server.stored("ExperimentRun/dcid.old/", "azureml") == {}
    told = [entry["code"] for entry in server.job("old")["timeline"]]
    assert told.count("FilesRemoved") == 1


def test_rules_stay_over_a_restart_and_are_checked(server: JobServer):
    server.down()
    server.start()
    done = server.cli("retention", "show", "-o", "json")
    assert json.loads(done.stdout)["job_files_days"] == 90
    done = server.cli("retention", "set", "--job-files-days", "forever", "-o", "json")
    assert json.loads(done.stdout)["job_files_days"] is None
    done = server.cli("retention", "set", "--uploads-days", "0")
    assert done.returncode == 4
    assert "from 1 to" in done.stderr
    done = server.cli("retention", "set", "--uploads-days", "soon")
    assert done.returncode == 2
