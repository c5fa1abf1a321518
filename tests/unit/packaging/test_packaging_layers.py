"""Layers and layouts: what is in them decides their bytes, and every reader gets back what was put in."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.environments.images.reference import parse_reference
from tidemill.packaging import archive, files, layers, oci
from tidemill.packaging.files import DIRECTORY, FILE, LINK, Entry, Files

NAMES = st.text("ab.é-_ ", min_size=1, max_size=8).filter(lambda name: name.strip() not in ("", ".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
ENTRIES = st.one_of(
    st.builds(
        lambda data, x: Entry(FILE, 0o755 if x else 0o644, data=data), st.binary(max_size=300), st.booleans()
    ),
    st.builds(files.link, NAMES),
    st.just(files.FOLDER),
)


def written(found: Files, folder: Path) -> layers.Layer:
    folder.mkdir(exist_ok=True)
    return layers.write(found, str(folder), "a layer")


def read_back(layer: layers.Layer, folder: Path) -> dict[str, tuple[object, ...]]:
    raw = (folder / layer.digest.removeprefix("sha256:")).read_bytes()
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == layer.digest
    assert len(raw) == layer.size
    plain = gzip.decompress(raw)
    assert f"sha256:{hashlib.sha256(plain).hexdigest()}" == layer.diff_id
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        for member in tar:
            assert (member.mtime, member.uname, member.gname) == (0, "", "")
            handle = tar.extractfile(member) if member.isfile() else None
            kind = FILE if member.isfile() else LINK if member.issym() else DIRECTORY
            assert member.name not in found
            found[member.name] = (kind, member.mode, handle.read() if handle else b"", member.linkname)
    return found


@settings(max_examples=60, deadline=None)
@given(found=st.dictionaries(PATHS, ENTRIES, max_size=8), order=st.randoms(use_true_random=False))
def test_a_layer_holds_what_was_given_in_whatever_order(
    tmp_path_factory: pytest.TempPathFactory, found: Files, order: random.Random
) -> None:
    files_ = {path for path, entry in found.items() if entry.kind != DIRECTORY}
    found = {path: e for path, e in found.items() if not any(path.startswith(f"{f}/") for f in files_)}
    folder = tmp_path_factory.mktemp("layer")
    layer = written(found, folder)
    back = read_back(layer, folder)
    for path, entry in found.items():
        assert back[path] == (entry.kind, entry.mode, entry.data, entry.target)
    parents = {"/".join(path.split("/")[:n]) for path in found for n in range(1, path.count("/") + 1)}
    assert back.keys() == found.keys() | parents
    seen: set[str] = set()
    for path in back:  # folders come before what is in them
        assert path.rpartition("/")[0] in ("", *seen)
        seen.add(path)
    shuffled = list(found.items())
    order.shuffle(shuffled)
    assert written(dict(shuffled), folder) == layer


def test_times_owners_and_folders_of_the_host_are_not_in_it(tmp_path: Path) -> None:
    made: list[layers.Layer] = []
    for name in ("one", "two"):
        root = tmp_path / name
        (root / "sub").mkdir(parents=True)
        (root / "sub" / "a.txt").write_text("text")
        (root / "run.sh").write_text("#!/bin/sh\n")
        (root / "run.sh").chmod(0o710 if name == "one" else 0o777)
        (root / "link").symlink_to("sub/a.txt")
        os.utime(root / "sub" / "a.txt", (time.time() - 1e6, 12345))
        made.append(written(files.tree(str(root), "srv"), tmp_path / "blobs"))
    assert made[0] == made[1]
    back = read_back(made[0], tmp_path / "blobs")
    assert back["srv/sub/a.txt"] == (FILE, 0o644, b"text", "")
    assert back["srv/run.sh"][:2] == (FILE, 0o755)
    assert back["srv/link"] == (LINK, 0o777, b"", "sub/a.txt")


def test_links_that_lead_out_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("out")
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "here").write_text("here")
    (root / "deep" / "up").symlink_to("../here")
    (root / "out").symlink_to("../outside")
    (root / "absolute").symlink_to(root / "here")
    (root / "nowhere").symlink_to("gone")
    os.mkfifo(root / "pipe")
    found = files.tree(str(root), "x")
    assert found["x/deep/up"] == files.link("../here")
    assert found["x/absolute"].kind == FILE
    assert found.keys() == {"x", "x/here", "x/deep/up", "x/absolute"}
    followed = files.entry_of(str(root), str(root / "out"), follow=True)  # of the host's own
    assert followed is not None
    assert followed.source == str(root / "out")
    kept = files.whole(str(root))  # of an image
    assert kept["out"] == files.link("../outside")
    assert kept["absolute"] == files.link(str(root / "here"))
    assert kept["nowhere"] == files.link("gone")


def test_a_disk_that_fills_leaves_no_part_of_a_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = layers._Sink.finish

    def full(sink: layers._Sink, about: str) -> layers.Layer:
        real(sink, about)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layers._Sink, "finish", full)
    with pytest.raises(OSError, match="No space"):
        layers.write({"a": files.text("a")}, str(tmp_path), "")
    assert list(tmp_path.iterdir()) == []


def layout_of(tmp_path: Path) -> tuple[Path, oci.Image, str]:
    layout = tmp_path / "layout"
    (layout / oci.BLOBS).mkdir(parents=True)
    blobs = str(layout / oci.BLOBS)
    made = [layers.write({name: files.text(name * 3000)}, blobs, f"layer {name}") for name in ("a", "b")]
    image = oci.Image("amd64", tuple(made), {"Env": ["A=1"]}, {"title": "t"})
    return layout, image, oci.write(image, str(layout), "digits:1")


def test_a_layout_names_everything_by_its_digest(tmp_path: Path) -> None:
    layout, image, digest = layout_of(tmp_path)
    for blob in (layout / oci.BLOBS).iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert entry["digest"] == digest
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "digits:1"}
    manifest = json.loads((layout / oci.BLOBS / digest.removeprefix("sha256:")).read_bytes())
    assert [one["digest"] for one in manifest["layers"]] == [layer.digest for layer in image.layers]
    config = (layout / oci.BLOBS / manifest["config"]["digest"].removeprefix("sha256:")).read_bytes()
    assert len(config) == manifest["config"]["size"]
    found = json.loads(config)
    assert found["rootfs"]["diff_ids"] == [layer.diff_id for layer in image.layers]
    assert [one["created_by"] for one in found["history"]] == ["layer a", "layer b"]


def test_layers_that_were_there_keep_their_history(tmp_path: Path) -> None:
    _, image, _ = layout_of(tmp_path)
    before = ({"created_by": "COPY a /"}, {"created_by": "ENV A=1", "empty_layer": True})
    told = json.loads(oci.configuration(oci.Image("amd64", image.layers, {}, {}, before)))["history"]
    assert [one["created_by"] for one in told] == ["COPY a /", "ENV A=1", "layer b"]


def test_an_archive_for_docker_holds_the_layers_plain(tmp_path: Path) -> None:
    layout, image, _ = layout_of(tmp_path)
    target = tmp_path / "digits.tar"
    archive.write(layout, "Digits Packaged!", "1", target)
    with tarfile.open(target) as tar:
        (about,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert about["RepoTags"] == ["digits-packaged:1"]
        for name, layer in zip(about["Layers"], image.layers, strict=True):
            plain = tar.extractfile(name).read()  # type: ignore[union-attr]
            assert f"sha256:{hashlib.sha256(plain).hexdigest()}" == layer.diff_id
        config = tar.extractfile(about["Config"]).read()  # type: ignore[union-attr]
        assert about["Config"] == f"{hashlib.sha256(config).hexdigest()}.json"


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("My_-Pack..A", "my-pack-a"),
        ("a__b", "a__b"),
        ("a___b.c--d", "a-b.c--d"),
        ("-x.", "x"),
        ("é", "package"),
    ],
)
def test_a_name_becomes_what_docker_allows(tmp_path: Path, name: str, repository: str) -> None:
    layout, _, _ = layout_of(tmp_path)
    archive.write(layout, name, "1", tmp_path / "made.tar")
    with tarfile.open(tmp_path / "made.tar") as tar:
        (about,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert about["RepoTags"] == [f"{repository}:1"]
    assert parse_reference(f"{repository}:1").name == f"docker.io/library/{repository}"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (lambda raw: raw[:-40], "is not what the image says"),  # half of it
        (lambda raw: gzip.compress(b"another"), "is not what the image says"),
        (lambda raw: b"\x28\xb5\x2f\xfd" + raw, "packed with zstd"),
    ],
)
def test_a_layer_that_is_another_makes_no_archive(
    tmp_path: Path, changed: Callable[[bytes], bytes], told: str
) -> None:
    layout, image, _ = layout_of(tmp_path)
    blob = layout / oci.BLOBS / image.layers[1].digest.removeprefix("sha256:")
    blob.write_bytes(changed(blob.read_bytes()))
    with pytest.raises(archive.Unreadable, match=told):
        archive.write(layout, "d", "1", tmp_path / "made.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout"]


def test_what_is_no_layout_makes_no_archive(tmp_path: Path) -> None:
    layout, image, _ = layout_of(tmp_path)
    (layout / oci.BLOBS / image.layers[1].digest.removeprefix("sha256:")).unlink()
    target = tmp_path / "digits.tar"
    with pytest.raises(OSError, match="No such file"):
        archive.write(layout, "d", "1", target)
    (layout / "index.json").write_text("{}")
    with pytest.raises(archive.Unreadable, match="holds 0 images"):
        archive.write(layout, "d", "1", target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout"]
