"""Names are refused whole: also a line's end after one that would do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tidemill.app.computes.compute_rules import check_compute_name
from tidemill.domain.errors import InvalidRequest
from tidemill.domain.ids import check_name
from tidemill.domain.serving.model import check_name as check_endpoint_name
from tidemill.environments.images.reference import parse_reference

CHECKS: dict[str, Callable[[str], object]] = {
    "job": lambda name: check_name(name, "Job"),
    "compute": check_compute_name,
    "endpoint": lambda name: check_endpoint_name(name, "Endpoint"),
    "package": lambda name: parse_reference(f"package://{name}/model:1"),
    "repository": lambda name: parse_reference(f"docker.io/{name}/model:1"),
}


@pytest.mark.parametrize("of", CHECKS)
def test_a_name_has_no_lines_end(of: str) -> None:
    CHECKS[of]("train")
    with pytest.raises(InvalidRequest, match=r"train\\n"):
        CHECKS[of]("train\n")
