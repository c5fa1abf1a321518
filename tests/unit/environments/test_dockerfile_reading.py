"""What a Dockerfile starts from, and which line an instruction stands on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidRequest, TidemillError
from tidemill.environments.dockerfiles import box, reading
from tidemill.environments.dockerfiles.box import DockerBox


def bases(text: str) -> list[tuple[str, int]]:
    return [(base.image, base.line) for base in reading.read("Dockerfile", text.encode()).bases]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FROM python:3.11", [("python:3.11", 1)]),
        ("\n# note\nfrom --platform=linux/amd64 a/b@sha256:0 as x\nFROM X\n", [("a/b@sha256:0", 3)]),
        ("FROM scratch\nCOPY --from=tools:1 /a /b", [("tools:1", 2)]),
        ("FROM a AS one\nFROM b\nCOPY --chown=1 --from=one x y\nCOPY --from=0 x y", [("a", 1), ("b", 2)]),
        ("FROM a\nRUN --mount=type=bind,from=c,target=/c true", [("a", 1), ("c", 2)]),
        ('ARG V="3.1"\nARG R=reg/$V\nFROM ${R:-x}:${T:-1}${U:+u}', [("reg/3.1:1", 3)]),
        ("# escape=`\nFROM `\n  a\nRUN x\\\nRUN y", [("a", 2)]),
        ("FROM a\nRUN cat <<EOF\nFROM not\nEOF\nFROM b", [("a", 1), ("b", 5)]),
        ("FROM a\nRUN x && \\\n# in between\n\n  y\nFROM b", [("a", 1), ("b", 6)]),
    ],
)
def test_images_that_it_names(text: str, found: list[tuple[str, int]]):
    assert bases(text) == found


def test_steps_are_counted_as_buildah_does():
    read = reading.read("D", b"ARG A\nFROM a\nRUN one \\\n  two\nFROM b\n\nENV x=y\nRUN three")
    assert read.at(1, 2) == reading.Instruction(3, "RUN", "one two")
    assert read.at(2, 3) == reading.Instruction(8, "RUN", "three")
    assert (read.at(2, 4), read.at(0, 1), read.at(3, 1)) == (None, None, None)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "D: it has no FROM"),
        (b"RUN x\nFROM a", "D, line 1: RUN stands before the first FROM"),
        (b"FROM a\nFROM b c d", "D, line 2: FROM 'b c d' cannot be read"),
        (b"ARG X\nFROM $X", "D, line 2: .X is empty"),
        (b"FROM a\n\xff", "D, line 2: it is not UTF-8"),
        (b"FROM a" + b" " * (1 << 20), "larger than 1 MiB"),
        (b"FROM a\n" + b"".join(b"FROM a%d\n" % n for n in range(32)), "names 33 images, more than 32"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(raw: bytes, words: str):
    with pytest.raises(InvalidRequest, match=words):
        reading.read("D", raw)


@given(st.text(st.sampled_from("FROMARGUNCPY a$\\\n#<E=:{}-\"'`1"), max_size=200))
def test_any_text_is_read_or_refused(text: str):
    try:
        found = reading.read("D", text.encode())
    except TidemillError:
        return
    lines = text.count("\n") + 1
    assert all(1 <= each.line <= lines for stage in found.stages for each in stage)
    assert all(base.image for base in found.bases)


def test_what_the_host_lacks_is_named(monkeypatch: pytest.MonkeyPatch):
    rules = box.Confinement(sandbox=False)
    monkeypatch.setattr(box.shutil, "which", lambda _: None)
    with pytest.raises(InvalidRequest, match=r"env:1 is a Docker build.*no buildah.*apt install buildah"):
        box.require("env:1", rules)
    monkeypatch.setattr(box.shutil, "which", lambda _: "/usr/bin/buildah")
    monkeypatch.setattr(box.os, "geteuid", lambda: 1000)
    with pytest.raises(InvalidRequest, match=r"as an ordinary user.*buildah sets its groups"):
        box.require("env:1", rules)
    monkeypatch.setattr(box.os, "geteuid", lambda: 0)
    with pytest.raises(InvalidRequest, match=r"no sandbox to build it in .*never built without one"):
        box.require("env:1", rules)


def test_buildah_gets_no_credentials(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REGISTRY_AUTH_FILE", "/root/auth.json")
    monkeypatch.setenv("SECRET", "x")
    made = DockerBox(tmp_path / "b", box.Confinement(), "/usr/bin/buildah", 1)
    assert not {"REGISTRY_AUTH_FILE", "SECRET"} & made._environment().keys()
