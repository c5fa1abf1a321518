"""What a job is shown, as bubblewrap's arguments."""

from __future__ import annotations

import itertools
from pathlib import Path

from tidemill.sandbox import bwrap, etc, shown

WORK = "/home/u/.tidemill/nodes/n-1/work/a.1"


def command(job: shown.Job) -> list[str]:
    box = bwrap.Sandbox("/usr/bin/bwrap", ["--disable-userns"], "/node/etc", "n-1")
    return box.command(["/bin/bash", "-c", "true"], job)


def mounts(words: list[str]) -> list[tuple[str, str, str]]:
    """(option, source, target) of every bind, in order."""
    return [tuple(words[i : i + 3]) for i, word in enumerate(words) if "bind" in word]  # pyright: ignore


def test_nothing_is_shown_but_what_is_listed() -> None:
    words = command(shown.Job(WORK, f"{WORK}/code"))
    seen = {target for _, _, target in mounts(words)}
    system = {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/sys/devices/system"}
    assert seen <= system | {f"/etc/{name}" for name in etc.FOLDERS} | {WORK}
    assert [m for m in mounts(words) if m[0] == "--bind"] == [("--bind", WORK, WORK)]
    assert words[-5:] == [f"{WORK}/code", "--", "/bin/bash", "-c", "true"]
    assert words[words.index("--chdir") - 2 : words.index("--chdir")] == ["--remount-ro", "/"]


def test_inputs_lie_read_only_over_the_job_s_own_folder() -> None:
    words = command(shown.Job(WORK, WORK, read_only=[f"{WORK}/inputs/d", "/home/u/.tidemill/envs/1"]))
    order = [m[:1] + m[2:] for m in mounts(words)][-3:]
    assert order == [
        ("--ro-bind-try", "/home/u/.tidemill/envs/1"),
        ("--bind", WORK),
        ("--ro-bind-try", f"{WORK}/inputs/d"),
    ]


def test_a_python_whose_prefix_holds_the_home_does_not_show_the_home() -> None:
    for prefix in ("/home/u", "/", WORK):
        reads = [m[2] for m in mounts(command(shown.Job(WORK, WORK, read_only=[prefix]))) if "try" in m[0]]
        assert prefix not in reads
        assert f"{prefix.rstrip('/')}/lib" in reads


def test_what_is_below_usr_is_there_already() -> None:
    words = command(shown.Job(WORK, WORK, read_only=["/usr", "/usr/local"]))
    assert "--ro-bind-try" not in words


def test_devices_only_if_given() -> None:
    assert "--dev-bind" not in command(shown.Job(WORK, WORK))
    words = command(shown.Job(WORK, WORK, devices=["/dev/nvidia1"]))
    assert ("--dev-bind", "/dev/nvidia1", "/dev/nvidia1") in mounts(words)


def test_an_image_is_opened_where_something_is_bound_into_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for folder in ("usr/bin", "etc", "home/v", "proc", "dev", "tmp", "var/tmp", "opt"):
        (root / folder).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "etc" / "hosts").write_text("")
    made = tmp_path / "etc"
    etc.make(str(made), "n-1", 1234, 1234)
    box = bwrap.Sandbox("bwrap", [], str(made), "n-1")
    words = box.command(["/bin/sh"], shown.Job(WORK, WORK, str(root), ["/opt/python"]))
    targets = [target for _, _, target in mounts(words)]
    assert targets == ["/etc", "/home/v", "/usr", "/var", "/etc/hosts", shown.SYSTEM, "/opt/python", WORK]
    assert words[words.index("--symlink") : words.index("--symlink") + 3] == ["--symlink", "usr/bin", "/bin"]
    assert "/usr" not in [source for _, source, _ in mounts(words)]  # nothing of the host's


def test_etc_names_the_job_s_user_and_nobody_of_the_host(tmp_path: Path) -> None:
    etc.make(str(tmp_path), "n-1", 201234, 201234)
    assert "job:x:201234:201234:" in (tmp_path / "passwd").read_text()
    assert len((tmp_path / "passwd").read_text().splitlines()) == 3
    assert "127.0.0.1\tlocalhost n-1" in (tmp_path / "hosts").read_text()
    assert not (tmp_path / "shadow").exists()
    assert not (tmp_path / "machine-id").exists()


def test_no_mount_passes_a_link_of_the_image(tmp_path: Path) -> None:
    """While bubblewrap mounts, the host's files are below /oldroot: an image's link may lead there."""
    for name in ("home", "etc", "opt", "srv", "var"):
        (tmp_path / name).symlink_to("/oldroot/etc" if name != "srv" else "opt")
    (tmp_path / "usr").mkdir()
    words = command(shown.Job(WORK, WORK, str(tmp_path), ["/opt/python"]))
    links = {words[i + 2] for i, word in enumerate(words) if word == "--symlink"}
    assert links == {"/etc", "/srv", "/var"}, "those that nothing is mounted below"
    targets = [target for _, _, target in mounts(words)]
    assert not [t for t in targets if t.startswith(("/etc/", "/srv/", "/var/"))]
    assert ("--tmpfs", "/var/tmp") not in itertools.pairwise(words)
    folders = {words[i + 1] for i, word in enumerate(words) if word == "--dir"}
    assert {"/home", "/opt"} <= folders


def test_variables_for_the_loader_are_set_inside_only() -> None:
    environ = {"PATH": "/bin", "LD_PRELOAD": "x.so", "GLIBC_TUNABLES": "a=b", "LOCPATH": "/x", "LDAP": "kept"}
    outside, inside = bwrap.apart(environ)
    assert outside == {"PATH": "/bin", "LDAP": "kept"}
    box = bwrap.Sandbox("/usr/bin/bwrap", [], "/node/etc", "n-1")
    words = box.command(["/bin/true"], shown.Job(WORK, WORK), inside)
    assert [words[i + 1] for i, word in enumerate(words) if word == "--setenv"] == [
        "LD_PRELOAD",
        "GLIBC_TUNABLES",
        "LOCPATH",
    ]
