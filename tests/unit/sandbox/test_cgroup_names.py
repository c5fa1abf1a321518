"""Groups are found by their whole name where one build's end must not be another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.sandbox import cgroups


def test_a_name_that_begins_another_is_not_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tidemill-build-a-12", "tidemill-build-a-123"):
        (tmp_path / name).mkdir()
    place = {"v2": cgroups.Hierarchy(str(tmp_path), str(tmp_path))}
    monkeypatch.setattr(cgroups, "hierarchies", lambda: place)
    assert cgroups.named("tidemill-build-a-12") == [str(tmp_path / "tidemill-build-a-12")]
