"""Where packages that attack the server are built: the real builder, offline."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tidemill.environments.box import Confinement
from tidemill.environments.builder import EnvironmentBuilder
from tidemill.environments.tree import remove_tree
from tidemill.sandbox import tiers


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """home/envs, home/secrets, wheels: as on a server, below a folder that others may enter."""
    if why := tiers.sandboxing(0).why_not:
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="tidemill-hostile-"))
    folder.chmod(0o755)
    (folder / "home").mkdir(mode=0o700)
    (folder / "home" / "secrets").mkdir(mode=0o700)
    (folder / "home" / "secrets" / "signing.pem").write_text("the server's key")
    (folder / "home" / "envs").mkdir()
    (folder / "wheels").mkdir()
    for key in [key for key in os.environ if key.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(key)
    (folder / "uv.toml").write_text(f'no-index = true\nfind-links = ["{folder}/wheels"]\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(folder / "uv.toml"))
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "x")
    yield folder
    remove_tree(folder)


@pytest.fixture
def make(place: Path) -> Callable[..., EnvironmentBuilder]:
    def build(**rules: object) -> EnvironmentBuilder:
        return EnvironmentBuilder(
            place / "home" / "envs",
            lambda: time.time_ns() // 1000,
            allow_download=False,
            cache_dir=place / "cache",
            confinement=Confinement(**rules),  # type: ignore[arg-type]
        )

    return build


def found(built_path: Path, name: str) -> dict[str, object]:
    return json.loads(next(built_path.glob(f"lib/*/site-packages/{name}/found.json")).read_text())


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> (size, time of change), of every file below."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}
