from __future__ import annotations

from pathlib import Path

from tidemill.sandbox.view import closed_ancestor


def test_the_topmost_closed_folder(tmp_path: Path) -> None:
    base = tmp_path / "open"
    deep = base / "closed" / "open" / "closed-too" / "leaf"
    deep.mkdir(parents=True)
    for folder in (tmp_path, base, deep.parent.parent, deep):
        folder.chmod(0o755)
    above = closed_ancestor(str(base / "x"))  # a test directory may itself lie below a closed one
    deep.parent.chmod(0o700)
    deep.parent.parent.parent.chmod(0o700)
    assert closed_ancestor(str(deep)) == (above or str(base / "closed"))
    assert closed_ancestor("/usr/bin") == ""
    assert closed_ancestor("/no/such/path/at/all") == ""
