"""What this host can give a job: found by trying, never by looking at versions.

Not for the agent (`subprocess` alone would cost it a third of its start): the engine asks once and hands the
answer to each node's agent; `tidemill doctor` shows it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from typing import Any

from tidemill.sandbox import bwrap, etc, init, seccomp, shown

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INSTALL = "install bubblewrap (Debian, Ubuntu: apt install bubblewrap; Fedora: dnf install bubblewrap)"
INSTALL_RUNC = "install it (Debian, Ubuntu: apt install runc; Fedora: dnf install runc)"
TIERS = ("full", "rootless", "plain")
_OPTIONAL = ("--disable-userns",)
_TIMEOUT_S = 10.0


class Sandboxing:
    """How jobs are put into a sandbox here; `why_not` says why they are not, with what to do about it."""

    __slots__ = ("init", "options", "program", "version", "why_not")

    def __init__(
        self,
        program: str = "",
        options: list[str] | None = None,
        version: str = "",
        why_not: str = "",
        init: bool = False,
    ) -> None:
        self.init = init
        self.program = program
        self.options = options or []
        self.version = version
        self.why_not = why_not

    def config(self) -> dict[str, Any]:
        """For a node's agent."""
        return {"program": self.program, "options": self.options, "init": self.init, "why_not": self.why_not}


def sandboxing(uid: int, program: str | None = None) -> Sandboxing:
    """Tries a whole sandbox as `uid` (0: as we are). A job's own uid must be able to, not only root."""
    found = shutil.which("bwrap", path=PATH) if program is None else program
    if not found:
        return Sandboxing(why_not=f"bubblewrap is not installed: {INSTALL}")
    machine = os.uname().machine
    if machine not in seccomp.ARCHITECTURES:
        return Sandboxing(why_not=f"the system call filter is not written for {machine}")
    version = _said(found, "--version").removeprefix("bubblewrap ").strip()
    usage = _said(found, "--help")
    options = [option for option in _OPTIONAL if option in usage]
    own_init = bool(init.program(machine))
    problem = _try(found, options, own_init, machine, uid)
    if problem and options:  # known to it, refused by the kernel: the filter refuses the same
        options, problem = [], _try(found, [], own_init, machine, uid)
    if problem and own_init:  # too old for it, perhaps
        own_init, problem = False, _try(found, [], False, machine, uid)
    if problem:
        return Sandboxing(version=version, why_not=f"bubblewrap {version} could not run: {_advice(problem)}")
    return Sandboxing(found, options, version, init=own_init)


def runc() -> str:
    """Its path, or ""."""
    return shutil.which("runc", path=PATH) or ""


def version_of_runc() -> str:
    """What it says: "1.1.5+ds1". "" where there is none."""
    return (
        _said(runc(), "--version").partition("\n")[0].removeprefix("runc version ").strip() if runc() else ""
    )


def why_no_runc(version: str) -> str:
    """What a runc of that version lacks, or "". Before 1.1 it leaves writable what is mounted below a
    read-only mount, and says nothing."""
    if not version:
        return f"this server's host has no runc: {INSTALL_RUNC}"
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < (1, 1):
        return f"runc {version} is too old: 1.1 is needed"
    return ""


def _said(program: str, option: str) -> str:
    try:
        done = subprocess.run([program, option], capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def _try(program: str, options: list[str], own_init: bool, machine: str, uid: int) -> str:
    """Runs /bin/true in a sandbox -> why that failed, or ""."""
    who: dict[str, Any] = {"user": uid, "group": uid, "extra_groups": []} if uid else {}
    # Not in TMPDIR, which may lie where only we may go.
    with (
        tempfile.TemporaryDirectory(prefix="tidemill-", dir="/tmp") as folder,
        tempfile.TemporaryFile() as program_file,
    ):
        os.chmod(folder, 0o755)
        work = os.path.join(folder, "work")
        os.mkdir(work)
        os.chmod(work, 0o755)
        etc.make(os.path.join(folder, "etc"), "localhost", uid or os.getuid(), uid or os.getgid())
        program_file.write(seccomp.program(machine))
        program_file.seek(0)
        init_file = os.path.join(folder, "init")
        with open(init_file, "wb") as file:
            file.write(init.program(machine))
        os.chmod(init_file, 0o444)
        box = bwrap.Sandbox(program, options, os.path.join(folder, "etc"), "localhost")
        if own_init:
            box.init_is_ours()
        handed = f"{bwrap.FILTER_FD}<&0 {init.INIT_FD}<{init_file} {init.SAID_FD}>/dev/null"
        argv = box.command(["/bin/true"], shown.Job(work, work))
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", f'exec "$@" {handed} </dev/null', "sh", *argv],
                stdin=program_file,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                cwd="/",
                **who,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"it ended with {done.returncode}"


def _advice(problem: str) -> str:
    """What the usual refusals mean."""
    if "namespace" in problem or "uid map" in problem:
        for path, wanted in (
            ("/proc/sys/kernel/unprivileged_userns_clone", "1"),
            ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "0"),
        ):
            if _read(path) not in ("", wanted):
                name = path.removeprefix("/proc/sys/").replace("/", ".")
                return f"{problem}. This host forbids user namespaces: sysctl {name}={wanted} allows them"
        if _read("/proc/sys/user/max_user_namespaces") == "0":
            return f"{problem}. This host forbids user namespaces: sysctl user.max_user_namespaces=15000"
    if "proc" in problem:
        return f"{problem}. Inside a container /proc is often masked: run Tidemill on the host, or unmask it"
    return problem


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
