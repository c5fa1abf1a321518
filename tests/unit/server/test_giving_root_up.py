"""When a server keeps root, and what one that does not is shown of folders that are closed to it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tidemill.domain.errors import Forbidden
from tidemill.sandbox import disk, idmap, uids, view
from tidemill.server import home as homes
from tidemill.server import privileges, seen

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def refuse(*_: object) -> int:
    raise OSError(22, "Invalid argument")


@needs_root
def test_a_host_without_idmapped_mounts_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idmap, "clone", refuse)
    home = tmp_path / "home"
    assert "idmapped mounts" in privileges.drop(home).why_root
    assert os.geteuid() == 0
    assert (home / "nodes").exists()
    assert os.listdir(home / "nodes") == []
    assert not (home / "helper").exists()


@needs_root
def test_asked_for(tmp_path: Path) -> None:
    assert "--keep-root" in privileges.drop(tmp_path / "home", keep=True).why_root


@needs_root
def test_without_a_disk_the_homes_own_file_system_has_to_know_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise disk.NotAvailable("no loop devices")

    asked: list[int] = []
    monkeypatch.setattr(disk, "attach", none)
    monkeypatch.setattr(idmap, "clone", lambda fd, _: asked.append(os.fstat(fd).st_dev) or os.dup(fd))
    assert privileges.why_not(tmp_path) == ""
    assert asked == [tmp_path.stat().st_dev]


@needs_root
def test_the_home_of_another_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    with pytest.raises(Forbidden, match="belongs to another user"):
        privileges.drop(home)


def home_with(tmp_path: Path, folder: Path) -> Path:
    home = tmp_path / "home"
    (home / "helper").mkdir(parents=True)
    where = homes.Home(home)
    homes.load_config(where)
    raw = json.loads(where.config.read_bytes())
    where.config.write_text(json.dumps({**raw, "image_folders": [str(folder)]}))
    return home


def shown(home: Path, typed: list[str]) -> set[str]:
    return {bind.path for bind in seen.to_be_seen(home, typed)}


@needs_root
def test_only_roots_word_shows_what_lies_in_closed_folders(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    folder, pair = tmp_path / "images", tmp_path / "pair.pem"
    folder.mkdir()
    pair.touch()
    home = home_with(tmp_path, folder)
    os.chown(home / "config.json", uids.FIRST, uids.FIRST)  # the server's own word
    assert str(folder) not in shown(home, [])
    assert str(pair) in shown(home, [str(pair)])
    os.chown(home / "config.json", 0, 0)
    assert {str(folder), str(pair)} <= shown(home, [])
    os.chown(home / "config.json", uids.FIRST, uids.FIRST)
    assert {str(folder), str(pair)} <= shown(home, [])  # remembered


def test_a_link_in_place_of_an_exact_bind_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "envs").symlink_to(tmp_path / "secret")
    assert view._with_real_paths([view.Bind(str(tmp_path / "envs"), exact=True)]) == []
    found = view._with_real_paths([view.Bind(str(tmp_path / "envs"))])
    assert {bind.path for bind in found} == {str(tmp_path / "envs"), str(tmp_path / "secret")}
