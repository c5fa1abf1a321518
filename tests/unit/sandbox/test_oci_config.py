"""A container's config.json, as runc reads it."""

from __future__ import annotations

import copy

from tidemill.sandbox import init, oci, shown

WORK = "/home/nodes/n-1/work/a.1"
ENTRIES = [
    (shown.READ, "/usr", "/usr"),
    (shown.LINK, "usr/bin", "/bin"),
    (shown.FOLDER, "", "/var"),
    (shown.LINK, "/tmp", "/var/tmp"),
    (shown.FRESH, "", "/tmp"),
    (shown.DEVICE, "/home/nodes/n-1/work/.dev", "/dev"),
    (shown.READ_IF_THERE, "/envs/1", "/envs/1"),
    (shown.WRITE, WORK, WORK),
]


def container() -> oci.Container:
    return oci.Container(
        ["/bin/sh", "-c", "true"],
        {"PATH": "/bin", "HIDDEN": "a=b"},
        f"{WORK}/code",
        ENTRIES,
        200_000,
        "n" * 70,
        "/home/nodes/n-1/work/.runc/init",
        "tidemill-1-n-1/t1",
        [("RLIMIT_CORE", 1, 1)],
    )


def test_the_whole_of_it() -> None:
    read = ["rbind", "ro", "rro", "nosuid", "nodev"]
    config = copy.deepcopy(oci.config(container()))
    assert config.pop("linux") == {
        "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")],
        "cgroupsPath": "tidemill-1-n-1/t1",
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "maskedPaths": [
            "/proc/acpi",
            "/proc/asound",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/sys/firmware",
        ],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    }
    mounts = [(m["type"], m["source"], m["destination"], m["options"]) for m in config.pop("mounts")]
    assert mounts == [
        ("proc", "proc", "/proc", ["nosuid", "noexec", "nodev"]),
        ("bind", "/usr", "/usr", read),
        ("tmpfs", "tmpfs", "/tmp", ["nosuid", "nodev", "mode=1777"]),
        ("bind", "/home/nodes/n-1/work/.dev", "/dev", ["rbind", "rw", "nosuid", "noexec"]),
        ("bind", "/envs/1", "/envs/1", read),
        ("bind", WORK, WORK, ["rbind", "rw", "nosuid", "nodev"]),
        ("bind", "/home/nodes/n-1/work/.runc/init", init.PATH, read),
    ]
    assert config == {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 200_000, "gid": 200_000, "umask": 0o022},
            "args": [init.PATH, "/bin/sh", "-c", "true"],
            "env": ["PATH=/bin", "HIDDEN=a=b"],
            "cwd": f"{WORK}/code",
            "capabilities": {},
            "noNewPrivileges": True,
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}],
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "n" * 64,
    }


def test_what_is_no_mount_is_made_before() -> None:
    assert oci.beforehand(ENTRIES) == (["/var"], [("usr/bin", "/bin"), ("/tmp", "/var/tmp")])


def test_it_joins_the_node_s_network() -> None:
    assert "network" not in oci.SPACES
