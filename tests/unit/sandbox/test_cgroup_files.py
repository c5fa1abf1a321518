"""Which files are written where, on the three kinds of hosts. Real groups: tests/contract/engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.sandbox import cgroups
from tidemill.sandbox.cgroups import Groups, Hierarchy


def proc(tmp_path: Path, cgroup: str, mountinfo: str) -> str:
    (tmp_path / "cgroup").write_text(cgroup)
    (tmp_path / "mountinfo").write_text(mountinfo)
    return str(tmp_path)


def test_hierarchies_of_a_hybrid_host(tmp_path: Path) -> None:
    found = cgroups.hierarchies(
        proc(
            tmp_path,
            "4:memory:/mine\n2:cpu,cpuacct:/\n0::/u\n",
            "30 29 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            "31 29 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
            "32 29 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
            "33 29 0:29 / /proc rw - proc proc rw\n",
        )
    )
    assert {k: (h.top, h.own) for k, h in found.items()} == {
        "memory": ("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/mine"),
        "cpu": ("/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
        "cpuacct": ("/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
        "v2": ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/u"),
    }


def test_a_container_that_sees_only_its_own_part(tmp_path: Path) -> None:
    found = cgroups.hierarchies(
        proc(tmp_path, "0::/docker/abc/x\n", "30 29 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n")
    )
    assert found["v2"].own == "/sys/fs/cgroup/x"


def files(directory: Path, **content: str) -> str:
    directory.mkdir(exist_ok=True)
    for name, text in content.items():
        (directory / name.replace("__", ".")).write_text(text)
    return str(directory)


def test_limits_of_version_one(tmp_path: Path) -> None:
    cpu = files(tmp_path / "cpu", cpu__cfs_period_us="", cpu__cfs_quota_us="")
    big = "9223372036854771712"
    memory = files(tmp_path / "memory", memory__limit_in_bytes=big, memory__memsw__limit_in_bytes=big)
    report = cgroups.limit(Groups({"cpu": cpu, "memory": memory}), 1500, 1 << 30, {"pids": "not here"})
    assert (tmp_path / "cpu/cpu.cfs_quota_us").read_text() == "150000"
    assert (tmp_path / "memory/memory.memsw.limit_in_bytes").read_text()[:10] == str(1 << 30)
    assert report["cpu"] == {"enforced": True, "by": "cgroup v1 cpu.cfs_quota_us", "why_not": ""}
    assert report["memory"]["by"] == "cgroup v1 memory.limit_in_bytes"
    assert report["pids"] == {"enforced": False, "by": "", "why_not": "not here"}


def test_limits_of_version_two(tmp_path: Path) -> None:
    one = files(
        tmp_path / "n",
        cgroup__controllers="",
        cpu__max="",
        memory__max="",
        memory__swap__max="",
        pids__max="",
    )
    groups = Groups(dict.fromkeys((*cgroups.CONTROLLERS, "kill"), one))
    report = cgroups.limit(groups, 500, 0, {})
    assert (tmp_path / "n/cpu.max").read_text() == "50000 100000"
    assert (tmp_path / "n/memory.max").read_text() == "max"
    assert all(line["enforced"] for line in report.values())
    assert groups.joined_by(f"{one}/t1") == [f"{one}/t1"]


def test_a_limit_that_cannot_be_written_says_which(tmp_path: Path) -> None:
    cpu = files(tmp_path / "cpu")  # no such files: a kernel without the controller's quota
    report = cgroups.limit(Groups({"cpu": cpu}), 1000, 0, {})
    assert not report["cpu"]["enforced"]
    assert "cpu.cfs_period_us" in str(report["cpu"]["why_not"])


def test_a_host_where_nothing_can_be_made(tmp_path: Path) -> None:
    found = {"cpu": Hierarchy(str(tmp_path / "none"), str(tmp_path / "none"))}
    groups, missing = cgroups.create("n", found)
    assert groups.paths == {}
    assert "refused a new group" in missing["cpu"]
    assert "no cgroup hierarchy" in missing["memory"]
    assert missing["kill"]


def test_version_one_alone_still_has_a_kill_group(tmp_path: Path) -> None:
    found = {c: Hierarchy(files(tmp_path / c), str(tmp_path / c)) for c in cgroups.CONTROLLERS}
    groups, missing = cgroups.create("n", found)
    assert groups.kill == str(tmp_path / "pids" / "n")
    assert missing == {}
    task = f"{groups.kill}/t1"
    assert groups.joined_by(task) == [task, groups.paths["cpu"], groups.paths["memory"]]
    assert cgroups.stale("n", found) == sorted(groups.directories())
    assert all(cgroups.remove(d) for d in groups.directories())


@pytest.mark.parametrize(
    ("name", "text"),
    [("memory.events", "low 0\noom 5\noom_kill 2\n"), ("memory.oom_control", "oom_kill 2\n")],
)
def test_the_oom_counter(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "memory.max_usage_in_bytes").write_text("4096\n")
    meter = cgroups.MemoryMeter(str(tmp_path))
    assert (meter.oom_kills(), meter.peak()) == (2, 4096)
    meter.close()
    absent = cgroups.MemoryMeter(str(tmp_path / "none"))
    assert (absent.oom_kills(), absent.peak(), absent.reset()) == (0, None, False)
