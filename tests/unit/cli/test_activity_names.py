"""What the activity log names a record by."""

from __future__ import annotations

import pytest

from tidemill.cli.commands.activity import _on  # pyright: ignore[reportPrivateUsage]

GROUP = "/subscriptions/s/resourceGroups/tidemill"
ML = f"{GROUP}/providers/Microsoft.MachineLearningServices"
CONTAINERS = f"{GROUP}/providers/Microsoft.ContainerInstance/containerGroups"


@pytest.mark.parametrize(
    ("resource", "name"),
    [
        (f"{ML}/workspaces/main", "main"),
        (f"{ML}/workspaces/main/jobs/train-1", "train-1"),
        (f"{ML}/workspaces/main/jobs/train-1/cancel", "train-1"),
        (f"/api/v1{GROUP}/workspaces/main/jobs/train-1/exec", "train-1"),
        (f"{ML.replace('Groups', 'groups')}/workspaces/main/models/m/versions/3", "m:3"),
        (f"{ML}/registries/shared/models/m/versions/3", "m:3"),
        (f"{CONTAINERS}/web", "web"),
        (f"{CONTAINERS}/web/restart", "web"),
        (f"{CONTAINERS}/web/containers/side/exec", "side"),
        (f"/api/v1{GROUP}/containerGroups/web/exec", "web"),
        (GROUP, "tidemill"),
        ("/msi/token", "token"),
        ("home", "home"),
    ],
)
def test_a_record_is_of_the_thing_and_not_of_the_verb(resource: str, name: str) -> None:
    assert _on(resource) == name
