"""Whether this host can put a job into a sandbox, and what is said where it cannot."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tidemill.sandbox import tiers


def program(folder: Path, text: str) -> str:
    path = folder / "bwrap"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_missing_bubblewrap_is_said_with_the_way_to_get_it() -> None:
    found = tiers.sandboxing(0, program="")
    assert found.program == ""
    assert "apt install bubblewrap" in found.why_not


def test_a_bubblewrap_that_is_refused_is_not_used(tmp_path: Path) -> None:
    script = 'case "$1" in --version) echo bubblewrap 9;; --help) ;; '
    script += "*) echo 'bwrap: No permissions to create new namespace' >&2; exit 1;; esac"
    found = tiers.sandboxing(0, program(tmp_path, script))
    assert found.program == ""
    assert "bubblewrap 9 could not run: bwrap: No permissions to create new namespace" in found.why_not


def test_an_option_that_this_kernel_refuses_is_left_out(tmp_path: Path) -> None:
    script = 'case "$1" in --version) echo bubblewrap 0.8;; --help) echo --disable-userns;; '
    script += '*) case " $* " in *" --disable-userns "*) exit 1;; esac;; esac'
    found = tiers.sandboxing(0, program(tmp_path, script))
    assert found.program.endswith("/bwrap")
    assert found.options == []


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_this_host_as_another_user_wherever_temporary_files_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    found = tiers.sandboxing(391_002 if os.geteuid() == 0 else 0)
    assert found.why_not == ""
    assert found.config()["program"]


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("1.1.5+ds1", ""),
        ("1.3.0", ""),
        ("2.0.0-rc1", ""),
        ("1.0.3", "runc 1.0.3 is too old: 1.1 is needed"),
        ("0.1", "runc 0.1 is too old: 1.1 is needed"),
        ("spec: 1", "runc spec: 1 is too old: 1.1 is needed"),
        ("", f"this server's host has no runc: {tiers.INSTALL_RUNC}"),
    ],
)
def test_a_runc_that_will_not_do_is_said(version: str, why: str) -> None:
    assert tiers.why_no_runc(version) == why


def test_which_runc_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = program(tmp_path, "echo 'runc version 9.1'; echo 'spec: 1.0.2'")
    monkeypatch.setattr(tiers, "runc", lambda: made)
    assert tiers.version_of_runc() == "9.1"
    monkeypatch.setattr(tiers, "runc", str)
    assert tiers.version_of_runc() == ""
