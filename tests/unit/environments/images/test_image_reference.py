"""References and manifests: read as Docker and OCI write them, refused with the part at fault."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest
from tidemill.environments.images.manifest import (
    Broken,
    Descriptor,
    Manifest,
    in_layout,
    read_config,
    read_manifest,
)
from tidemill.environments.images.reference import parse_reference

D = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("python", "docker.io/library/python:latest"),
        ("python:3.11-slim", "docker.io/library/python:3.11-slim"),
        ("team/trainer", "docker.io/team/trainer:latest"),
        ("docker.io/python", "docker.io/library/python:latest"),
        ("index.docker.io/python", "docker.io/library/python:latest"),
        ("docker://ghcr.io/a/b/c:1", "ghcr.io/a/b/c:1"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x:y", "localhost:5000/x:y"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        (f"host:1/x@{D}", f"host:1/x@{D}"),
        (f"host:1/x:tag@{D}", f"host:1/x@{D}"),
        ("oci:/a//b/./c", "oci:/a/b/c"),
        ("oci:/a:v1", "oci:/a:v1"),
        ("oci-archive:/a.tar", "oci-archive:/a.tar"),
        ("docker-archive:/a.tar:n/m:1", "docker-archive:/a.tar:n/m:1"),
    ],
)
def test_references(text: str, canonical: str):
    assert parse_reference(text).canonical == canonical


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no part of a repository's name"),
        ("Python", "write 'python'"),
        ("a//b", "'' is no part"),
        ("python:", "'' is no tag"),
        ("python:a b", "'a b' is no tag"),
        ("python@sha256:12", "is no digest"),
        ("-x.y/z", "is no registry"),
        ("--flag", "is no part"),
        ("oci:a", "is not absolute"),
        ("oci:/a/../b", "has a '..'"),
        ("docker-archive:/a:b c", "is no tag"),
        ("http://x/y", "is no registry"),
    ],
)
def test_what_cannot_be_read(text: str, why: str):
    with pytest.raises(InvalidRequest) as caught:
        parse_reference(text)
    assert why in caught.value.message
    assert caught.value.target == "properties.image"


@given(st.text(max_size=40))
def test_a_reference_is_no_option_and_no_other_transport(text: str):
    try:
        image = parse_reference(text)
    except InvalidRequest:
        return
    assert image.source.startswith(("docker://", "oci:/", "oci-archive:/", "docker-archive:/"))
    assert " " not in image.source or image.local
    again = parse_reference(image.canonical)
    assert again.canonical == image.canonical


def test_which_registries_are_this_host():
    assert [parse_reference(f"{host}/x").loopback for host in ("localhost:1", "127.0.0.1:1", "[::1]:1")] == [
        True
    ] * 3
    assert not parse_reference("127.0.0.1.example.com/x").loopback


def raw(**body: Any) -> bytes:
    return json.dumps(body).encode()


LAYER = {"digest": D, "size": 5, "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip"}
CONFIG = {"digest": D, "size": 3, "mediaType": "application/vnd.oci.image.config.v1+json"}


def entry(os: str = "linux", architecture: str = "amd64", **more: Any) -> dict[str, Any]:
    return {"digest": D, "size": 9, "platform": {"os": os, "architecture": architecture}, **more}


def test_manifests():
    found = read_manifest(raw(schemaVersion=2, config=CONFIG, layers=[LAYER, LAYER]), "amd64")
    assert isinstance(found, Manifest)
    assert (found.size, found.config.size) == (10, 3)


def test_an_index_gives_this_hosts_entry():
    windows, other = entry("windows"), entry(architecture="arm64")
    found = read_manifest(raw(manifests=[windows, other, entry(size=7), entry(size=8)]), "amd64")
    assert found == Descriptor(D, 7)
    with pytest.raises(Broken, match="none for linux/amd64, only for windows/amd64, linux/arm64"):
        read_manifest(raw(manifests=[windows, other, entry("unknown", "unknown")]), "amd64")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"[" * 100_000,
        raw(schemaVersion=1, fsLayers=[]),
        raw(schemaVersion=2, mediaType="application/vnd.cncf.helm"),
        raw(schemaVersion=2, config={"digest": "md5:1", "size": 1}, layers=[]),
        raw(schemaVersion=2, config={"digest": "sha256:../../etc", "size": 1}, layers=[]),
        raw(schemaVersion=2, config=CONFIG, layers=[{**LAYER, "size": -1}]),
        raw(schemaVersion=2, config=CONFIG, layers={"a": 1}),
        raw(schemaVersion=2, config=CONFIG, layers=[LAYER] * 600),
        raw(schemaVersion=2, config=CONFIG, layers=[{**LAYER, "mediaType": "a.tar+gzip+encrypted"}]),
        raw(schemaVersion=2, config=CONFIG, layers=[{**LAYER, "mediaType": "application/vnd.cncf.notary"}]),
        raw(manifests=[1]),
    ],
)
def test_broken_manifests(body: bytes):
    with pytest.raises(Broken):
        read_manifest(body, "amd64")


def test_the_names_of_a_layout():
    one = {**entry(), "annotations": {"org.opencontainers.image.ref.name": "a"}}
    two = {**entry(size=8), "annotations": {"org.opencontainers.image.ref.name": "b"}}
    assert in_layout(raw(manifests=[one]), "", "amd64").size == 9
    assert in_layout(raw(manifests=[one, two]), "b", "amd64").size == 8
    with pytest.raises(Broken, match="has no 'c': it has a, b"):
        in_layout(raw(manifests=[one, two]), "c", "amd64")
    with pytest.raises(Broken, match=r"has 2 images: name one of them, .* \(a, b\)"):
        in_layout(raw(manifests=[one, two]), "", "amd64")


def test_configurations():
    config = {"Env": ["A=1=2", "B", "=x", "C=\0"], "User": "root", "Entrypoint": ["/run"], "WorkingDir": "/w"}
    found = read_config(raw(os="linux", architecture="amd64", config=config), "amd64")
    assert found.env == (("A", "1=2"), ("B", ""))
    assert (found.user, found.entrypoint, found.working_dir) == ("root", ("/run",), "/w")
    assert read_config(raw(), "amd64").env == ()
    with pytest.raises(Broken, match="is for linux/arm64, and this host is linux/amd64"):
        read_config(raw(architecture="arm64"), "amd64")
