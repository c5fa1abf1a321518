"""Reruns and clones on a real server: they run, and say what they come from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from jobserver import JobServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    made = JobServer(tmp_path_factory.mktemp("again"))
    made.start()
    yield made
    made.end()


def test_a_job_again_and_changed(server: JobServer):
    word = {"word": {"jobInputType": "literal", "value": "one"}}
    server.submit("first", "echo word ${{inputs.word}}", inputs=word, tags={"a": "b"})
    assert server.wait("first")["status"] == "Completed"
    done = server.cli("job", "rerun", "-n", "first", "--new-name", "second", "--stream")
    assert done.returncode == 0, done.stderr
    assert "word one" in done.stdout
    assert "A rerun of job first." in [entry["message"] for entry in server.job("second")["timeline"]]
    done = server.cli(
        "job", "clone", "-n", "second", "--new-name", "third", "--set", "inputs.word=two", "--stream"
    )
    assert done.returncode == 0, done.stderr
    assert "inputs.word: one -> two" in done.stderr
    assert "word two" in done.stdout
    found = server.job("third")
    assert "A clone of job second." in [entry["message"] for entry in found["timeline"]]
    assert found["tags"] == {"a": "b"}
    done = server.cli("job", "rerun", "-n", "frist")
    assert done.returncode == 3
