"""uv inside an unpacked image: with its Python, seeing nothing of the host."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import time
from pathlib import Path

import pytest
from imagemaker import PYTHON_ENV, Layer, Layout, need, with_python
from wheelmaker import wheel

from tidemill.domain.errors import InvalidRequest
from tidemill.environments.builder import EnvironmentBuilder
from tidemill.environments.images.reference import parse_reference
from tidemill.environments.images.store import ImagePolicy, ImageStore
from tidemill.environments.images.unpacked import UnpackedImage
from tidemill.environments.spec import EnvironmentSpec
from tidemill.environments.tree import remove_tree

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


# A build backend of its own, so that none has to be installed.
SEEN = """
import os
def build_wheel(*_, **__):
    files = [path for path in ("/usr/bin", "/root", "{secret}") if os.path.exists(path)]
    names = [name for name in os.environ if name.startswith("SECRET")]
    raise SystemExit(f"SAW {{files}} {{names}} {{os.path.exists('/opt/python')}}")
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "{name}"
version = "1.0"
"""


def source(folder: Path, name: str, backend: str) -> None:
    with tarfile.open(folder / f"{name}-1.0.tar.gz", "w:gz") as tar:
        for path, text in (("pyproject.toml", PROJECT.format(name=name)), ("backend.py", backend)):
            info = tarfile.TarInfo(f"{name}-1.0/{path}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))


def now() -> int:
    return time.time_ns() // 1000


def quiet(_: str) -> None: ...


async def unpacked(folder: Path, layer: Layer, env: tuple[str, ...]) -> UnpackedImage:
    layout = Layout(folder / "layout")
    layout.add([layer], config={"Env": env})
    store = ImageStore(folder / "images", now, ImagePolicy(folders=(str(folder),)))
    return (await store.ensure(parse_reference(f"oci:{layout.path}"), "ws", None, quiet)).image


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EnvironmentBuilder:
    need("bwrap")
    for key in [key for key in os.environ if key.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(key)
    (tmp_path / "uv.toml").write_text(f'no-index = true\nfind-links = ["{tmp_path}/wheels"]\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "x")
    (tmp_path / "wheels").mkdir()
    return EnvironmentBuilder(tmp_path / "envs", now, allow_download=False)


async def test_a_build_in_an_image(builder: EnvironmentBuilder, tmp_path: Path):
    image = await unpacked(tmp_path, with_python(), PYTHON_ENV)
    wheel(tmp_path / "wheels", "tmtide", "1.0")
    spec = EnvironmentSpec(pip=("tmtide",), image="mine:1", in_image=True)
    built = await builder.ensure(spec, quiet, image)
    assert built.digest == builder.key(spec, image) != builder.key(spec)
    assert os.readlink(built.python) == f"/opt/python/bin/python{VERSION}"
    assert built.base_prefix == Path("/opt/python")
    assert not builder.manages(built.base_prefix)
    assert builder.is_built(built.digest)
    assert (await builder.ensure(spec, quiet, image)).cached
    older = EnvironmentSpec(conda="dependencies: [python=3.8]", image="mine:1", in_image=True)
    note = (await builder.ensure(older, quiet, image)).notes[0]
    assert note == f"Python 3.8 is not installed in image {image.short}: Python {VERSION} is used instead."
    remove_tree(tmp_path / "envs")
    remove_tree(tmp_path / "images")


async def test_what_runs_in_it_sees_nothing_of_the_host(builder: EnvironmentBuilder, tmp_path: Path):
    """A source package whose build says what it finds."""
    image = await unpacked(tmp_path, with_python(), PYTHON_ENV)
    (tmp_path / "secret").write_text("x")
    source(tmp_path / "wheels", "tmlook", SEEN.format(secret=tmp_path / "secret"))
    spec = EnvironmentSpec(pip=("tmlook",), image="mine:1", in_image=True)
    with pytest.raises(InvalidRequest, match=r"SAW \[\] \[\] True"):
        await builder.ensure(spec, quiet, image)
    remove_tree(tmp_path / "envs")
    remove_tree(tmp_path / "images")


async def test_an_images_variables_reach_nothing_outside(builder: EnvironmentBuilder, tmp_path: Path):
    """Of an image that names a file of the host as its certificates, and a library for the loader."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    trace = tmp_path / "envs" / "seen"
    env = (*PYTHON_ENV, f"SSL_CERT_FILE={secret}", "LD_DEBUG=files", f"LD_DEBUG_OUTPUT={trace}")
    image = await unpacked(tmp_path, with_python(), env)
    source(tmp_path / "wheels", "tmlook", SEEN.format(secret=secret))
    spec = EnvironmentSpec(pip=("tmlook",), image="mine:1", in_image=True)
    with pytest.raises(InvalidRequest, match=r"SAW \[\] \[\] True"):
        await builder.ensure(spec, quiet, image)
    assert list(trace.parent.glob("seen*")) == []
    remove_tree(tmp_path / "envs")
    remove_tree(tmp_path / "images")


async def test_what_cannot_be_built(builder: EnvironmentBuilder, tmp_path: Path):
    spec = EnvironmentSpec(pip=("tmtide",), image="mine:1", in_image=True)
    musl = await unpacked(tmp_path / "musl", Layer().file("lib/ld-musl-x86_64.so.1", "x"), ())
    with pytest.raises(InvalidRequest, match=r"has musl's, and a conda file needs an image with glibc"):
        await builder.ensure(spec, quiet, musl)
    bare = await unpacked(tmp_path / "bare", Layer().file("lib64/ld-linux-x86-64.so.2", "x"), ())
    with pytest.raises(InvalidRequest, match="is not installed in image sha256:"):
        await builder.ensure(spec, quiet, bare)
    for folder in ("envs", "musl/images", "bare/images"):
        remove_tree(tmp_path / folder)
