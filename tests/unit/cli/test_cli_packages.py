"""`tidemill model package` and `tidemill package …`: what is refused before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_fake_server import NATIVE, Fake, run


@pytest.mark.parametrize(
    ("form", "name", "told"),
    [
        ("oci", "file/new", "cannot be made in {0}/file: it is no folder."),
        ("docker-archive", "file/far/new.tar", "cannot be made in {0}/file: it is no folder."),
        ("docker-archive", "", "{0} is a folder: name a file, for example {0}/package.tar."),
        ("oci", "", "{0} exists and is no empty folder: name a new one."),
    ],
)
def test_a_place_that_cannot_be_is_told_before_anything_is_made(
    home: Path, fake: Fake, capsys: Any, tmp_path: Path, form: str, name: str, told: str
) -> None:
    (tmp_path / "file").touch()
    words = ("--format", form, "-p", str(tmp_path / name))
    assert run("model", "package", "m:1", "-e", "e:1", *words) == 2
    assert told.format(tmp_path) in capsys.readouterr().err
    assert run("package", "download", "-n", "p", "-v", "1", *words) == 2
    assert fake.asked == []


def test_a_file_that_is_not_there_is_no_environments_name(home: Path, fake: Fake, capsys: Any) -> None:
    assert run("model", "package", "m:1", "-e", "nothing.yml") == 2
    assert "There is no file nothing.yml." in capsys.readouterr().err


def test_no_packages_of_a_model_are_not_no_packages(home: Path, fake: Fake, capsys: Any) -> None:
    fake.on("GET", f"{NATIVE}/packages", {"value": []})
    for words, told in (
        ((), "No packages yet. Make one with: tidemill model package MODEL:VERSION"),
        (("--model-name", "m:2"), "No packages of model m:2 yet. Make one with: tidemill model package m:2 "),
    ):
        assert run("package", "list", *words) == 0
        said = capsys.readouterr()
        assert told in said.out + said.err


def test_layers_of_a_package_stand_a_line_each(home: Path, fake: Fake, capsys: Any) -> None:
    layers = [
        {"digest": f"sha256:{letter * 64}", "size": size, "about": about}
        for letter, size, about in (("a", 12 << 20, "Python 3.11"), ("b", 700, "the model"))
    ]
    found = {"name": "p", "version": "1", "size": 13 << 20, "layers": layers, "timeline": [], "error": None}
    fake.on("GET", f"{NATIVE}/packages/p/versions/1", found)
    assert run("package", "show", "-n", "p", "-v", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["size", "13.0", "MiB"]
    assert lines[3].split() == ["layers", "a" * 12, "12.0", "MiB", "Python", "3.11"]
    assert lines[4].split() == ["b" * 12, "700", "B", "the", "model"]
    assert run("package", "show", "-n", "p", "-v", "1", "--query", "layers[0].digest") == 0
    assert "sha256:" in capsys.readouterr().out
