"""The example pipeline: real data, two nodes, a condition, a registered model; again, only the rest runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tidemill.cli.main import run
from tidemill.cli.session import Given, Session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pipeline-diabetes"


def test_prepare_train_evaluate_register(server, tmp_path: Path) -> None:
    session = Session(Given(home=str(server.home)))

    def tidemill(*words: str) -> int:
        return run(["--home", str(server.home), *words])

    def steps(name: str) -> dict[str, str]:
        detail = session.client.get(f"{session.native}/jobs/{name}")
        return {step["name"]: step["state"] for step in detail["steps"]}

    assert tidemill("compute", "create", "--file", str(EXAMPLE / "compute.yml")) == 0
    file = str(EXAMPLE / "pipeline.yml")
    assert tidemill("job", "create", "--file", file, "--name", "first", "--stream") == 0
    assert set(steps("first").values()) == {"Completed"}
    assert tidemill("job", "download", "--name", "first", "--output-name", "report", "-p", str(tmp_path)) == 0
    scores = json.loads(next(tmp_path.rglob("scores.json")).read_text())
    assert 0.3 < scores["r2"] < 0.7
    train = next(
        job
        for job in session.client.get(f"{session.native}/jobs", {"parent": "first"})["value"]
        if job["step"] == "train"
    )
    held = session.client.get(f"{session.native}/jobs/{train['name']}")["attempts_list"][0]["nodes"]
    assert len(set(held)) == 2
    model = session.client.get(
        f"{session.workspace_id()}/models/diabetes/versions/1", {"api-version": "2023-08-01-preview"}
    )
    assert model["properties"]["modelType"] == "custom_model"
    # A bar that no model reaches: everything before is reused, nothing is registered.
    changed = ("--set", "inputs.least_r2=0.99")
    assert tidemill("job", "create", "--file", file, "--name", "second", *changed, "--stream") == 0
    assert steps("second") == {
        "prepare": "Reused",
        "train": "Reused",
        "evaluate": "Completed",
        "good_enough": "Completed",
        "register": "Skipped",
    }
