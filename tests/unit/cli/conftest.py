"""A server that answers what a test tells it to, and a home that points at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_fake_server import Fake, make_home


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.close()


@pytest.fixture
def home(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "AZURE_SUBSCRIPTION_ID",
        "AZURE_RESOURCE_GROUP",
        "AZUREML_WORKSPACE_NAME",
        "ML_WORKSPACE_NAME",
    ):
        monkeypatch.delenv(name, raising=False)
    made = make_home(tmp_path, fake.address)
    monkeypatch.setenv("TIDEMILL_HOME", str(made))
    return made
