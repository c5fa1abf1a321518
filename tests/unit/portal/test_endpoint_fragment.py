"""What an endpoint's page shows of deployments, from the views' values."""

from __future__ import annotations

from typing import Any

import pytest

from tidemill.portal import pages


def shown(**changes: Any) -> str:
    deployment: dict[str, Any] = {
        "name": "blue",
        "state": "Succeeded",
        "traffic": 100,
        "model": "digits:1",
        "model_job": None,
        "code": "score.py",
        "environment": "plain:1",
        "instances": [],
        "instance_count": 1,
        "instance_type": "Standard_DS1_v2",
        "run_rate_usd_hour": 0.0,
        "metrics": None,
        "error": None,
        "serves_older": False,
    }
    endpoint = {
        "name": "ep",
        "state": "Succeeded",
        "description": "",
        "scoring_uri": "https://localhost:1/score",
        "auth_mode": "Key",
        "traffic": {"blue": 100},
        "mirror_traffic": {},
        "run_rate_usd_hour": 0.0,
        "cost_usd": 0.0,
        "deployments": [deployment | changes],
        "timeline": [],
    }
    links = {"blue": {"model": "", "environment": ""}}
    return pages.fragment(
        "_endpoint.html", endpoint=endpoint, links=links, base="/ui", flags="", here="/ui/e"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "digits:1"),
        ({"model": None}, "score.py"),
        ({"model": None, "code": None}, "what its environment serves"),  # an image with a server, a package
    ],
)
def test_what_is_served(changes: dict[str, Any], said: str) -> None:
    assert said in shown(**changes)
