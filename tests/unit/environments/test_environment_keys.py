from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.catalog.curated import CuratedCatalog
from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.environments import python
from tidemill.environments.builder import EnvironmentBuilder
from tidemill.environments.python import Interpreter, choose, nearest
from tidemill.environments.spec import (
    BuildContext,
    EnvironmentSpec,
    from_arm,
    from_curated,
    from_requirements,
)

CONDA = (
    "name: a\nchannels: [defaults]\ndependencies:\n  - python>=3.8\n  - pip:\n    - six\n    - attrs>=20\n"
)


def pythons(*minors: int) -> tuple[Interpreter, ...]:
    return tuple(Interpreter((3, minor), Path(f"/opt/python3.{minor}")) for minor in minors)


@pytest.fixture
def builder(tmp_path: Path) -> EnvironmentBuilder:
    return EnvironmentBuilder(tmp_path / "envs", lambda: 0)


def test_the_key_covers_what_is_built_and_nothing_else(builder: EnvironmentBuilder):
    key = builder.key(EnvironmentSpec(conda=CONDA))
    same = CONDA.replace("name: a", "name: b  # hi").replace("defaults", "conda-forge")
    reordered = same.replace("    - six\n    - attrs>=20\n", "    - attrs>=20\n    - six\n")
    assert builder.key(EnvironmentSpec(conda=reordered, image="x", name="n", variables={"A": "1"})) == key
    assert builder.key(EnvironmentSpec(conda=CONDA.replace("attrs>=20", "attrs>=21"))) != key
    assert builder.key(EnvironmentSpec(conda=CONDA + "    - --pre\n")) != key
    assert builder.key(EnvironmentSpec(conda=CONDA.replace(">=3.8", "=3.8"))) != key
    assert builder.key(from_requirements("# x\nsix\n\nattrs>=20\n")) == key
    assert not builder.is_built(key)
    assert builder.find(key) is None


def test_a_key_is_the_same_in_every_process_and_home(builder: EnvironmentBuilder, tmp_path: Path):
    spec = EnvironmentSpec(pip=("six==1.16.0",))
    assert EnvironmentBuilder(tmp_path / "other", lambda: 1).key(spec) == builder.key(spec)
    assert len(builder.key(spec)) == 40


@settings(max_examples=50, deadline=None)
@given(st.permutations(["six", "attrs>=20", "idna<4", "numpy==2.0.0"]))
def test_order_does_not_matter(lines: list[str]):
    builder = EnvironmentBuilder(Path("/nonexistent"), lambda: 0)
    assert builder.key(EnvironmentSpec(pip=tuple(lines))) == builder.key(
        EnvironmentSpec(pip=tuple(sorted(lines)))
    )


def test_a_bad_requirement_is_named_with_its_line(builder: EnvironmentBuilder):
    with pytest.raises(
        InvalidRequest, match=r"^Requirements, line 2:1: '-r other\.txt' points to another file"
    ):
        builder.key(from_requirements("six\n-r other.txt\n"))


def test_arm_properties():
    spec = from_arm({"condaFile": CONDA + "variables:\n  A: b\n", "image": "mcr/x"}, "n", "3")
    assert (spec.name, spec.version, spec.image, spec.variables) == ("n", "3", "mcr/x", {"A": "b"})
    build = {"contextUri": "https://x/ctx/", "dockerfilePath": "./docker//Dockerfile"}
    made = from_arm({"build": build}, "n", "3")
    assert (made.build, made.in_image) == (BuildContext("https://x/ctx/", "docker/Dockerfile"), True)
    with pytest.raises(NotOffered, match=r"n:3 is a Docker build context \(https://x/ctx/\).*conda file"):
        from_arm({"build": build}, "n", "3", images="prefer-host")
    with pytest.raises(InvalidRequest, match="a build context and an image or a conda file: give one"):
        from_arm({"build": build, "condaFile": CONDA}, "n", "3")
    with pytest.raises(InvalidRequest, match=r"'\.\./x' leads out of the build context"):
        from_arm({"build": {**build, "dockerfilePath": "../x"}}, "n", "3")
    with pytest.raises(InvalidRequest, match=r"build is \{contextUri, dockerfilePath\}"):
        from_arm({"build": "https://x/ctx/"}, "n", "3")
    with pytest.raises(InvalidRequest, match="neither an image nor a conda file"):
        from_arm({}, "n", "3")
    with pytest.raises(InvalidRequest, match="line 1:1"):
        from_arm({"condaFile": "x"}, "n", "3")


def test_a_curated_image_means_its_packages():
    image = {"image": "mcr.microsoft.com/azureml/curated/sklearn-1.5:7"}
    spec = from_arm(image, "mine", "1", CuratedCatalog())
    assert spec.conda is not None
    assert "scikit-learn~=1.5.0" in spec.conda
    assert "is replaced by" in spec.notes[0]
    plain = from_arm({"image": "library/python:latest"}, "mine", "1", CuratedCatalog())
    assert (plain.conda, plain.image) == (None, "library/python:latest")


def test_every_curated_environment_has_a_key(builder: EnvironmentBuilder):
    keys = {builder.key(from_curated(environment)) for environment in CuratedCatalog().list()}
    assert len(keys) >= 9


@pytest.mark.parametrize(
    ("specifier", "there", "minor", "used"),
    [
        ("==3.10.*", (9, 10, 12), 10, 10),
        ("==3.10.6", (9, 10), 10, 10),
        (">=3.8,<3.12", (9, 10, 13), 10, 10),
        ("==3.8.*", (10, 12), 8, 10),
        ("==3.11.*", (10, 12), 11, 12),
        (">=3.9,<3.11", (12, 13), 10, 12),
        ("~=3.10", (9, 12), 12, 12),
        ("!=3.12.*", (10, 12), 10, 10),
        (">3.10", (10, 12), 12, 12),
        ("==2.7", (10,), 7, 10),
    ],
)
def test_python_is_exact_or_the_nearest(specifier: str, there: tuple[int, ...], minor: int, used: int):
    wanted = choose(specifier, pythons(*there))
    assert wanted.minor[1] == minor
    chosen = wanted.interpreter or nearest(wanted)
    assert chosen is not None
    assert chosen.minor == (3, used)
    assert (wanted.interpreter is not None) == (minor == used)


def test_without_a_wish_the_servers_own_python_is_used():
    import sys

    here = sys.version_info[1]
    assert choose("", pythons(8, here, 15)).minor == (3, here)
    assert choose("", pythons(8, 9)).minor == (3, 9)
    assert nearest(choose("==3.11.*", ())) is None


def test_refusal_names_the_versions_that_exist():
    wanted = choose("==3.8.*", pythons(10, 12))
    assert "Python 3.8 is not installed on this host" in python.refusal(wanted, "", "on this host").message
    assert "Installed: 3.10, 3.12" in python.refusal(wanted, "", "on this host").message
    with pytest.raises(InvalidRequest, match=r"^Python version '==3\.x' is not a range"):
        choose("==3.x", pythons(10))


def test_only_programs_count_as_interpreters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A pyenv shim is a script that may fail; its name promises nothing."""
    shim = tmp_path / "bin" / "python3.8"
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}{os.pathsep}{os.environ['PATH']}")
    found = python.installed(tmp_path / "managed", lambda _: 0)
    assert found
    assert shim not in [interpreter.path for interpreter in found]
    assert python.installed(tmp_path / "managed", lambda _: None) == ()


def test_programs_that_other_users_cannot_reach(tmp_path: Path):
    program = tmp_path / "bin" / "python3.11"
    program.parent.mkdir(mode=0o700)
    program.touch(0o755)
    assert not python.reachable_by_others(program)
    assert python.reachable_by_others(Path("/bin/sh").resolve())
    assert python.rank_for_other_users(program) is None


def test_the_servers_own_python_counts_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "bin" / "python3.14"
    program.parent.mkdir(mode=0o700)
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    monkeypatch.setattr("sys.base_prefix", str(tmp_path))
    assert python.rank_for_other_users(program) == 1
    found = python.installed(tmp_path / "managed", python.rank_for_other_users)
    assert Interpreter((3, 14), program) in found
