"""System calls that Python 3.11 has no name for. Each raises OSError with what was tried."""

from __future__ import annotations

import ctypes
import os
import struct

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID = 0x02000000, 0x04000000, 0x08000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_SLAVE = 1, 2, 4, 32, 4096, 16384, 1 << 19
MS_NOEXEC, MS_NOATIME, MS_PRIVATE = 8, 1024, 1 << 18

_MNT_DETACH = 2

# asm-generic/unistd.h and every architecture since: the numbers are the same. linux/mount.h for the flags.
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH, _MOUNT_ATTR_IDMAP = 1, 4, 0x00100000
_MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV, _MOUNT_ATTR_NOEXEC = 2, 4, 8
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _FilterProgram(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _prctl(option: int, value: int, what: str) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), what)


def become_subreaper() -> None:
    """Orphans below this process become its children, so that it can reap and count them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, "prctl(PR_SET_CHILD_SUBREAPER)")


def no_new_privileges() -> None:
    """No set-uid program gains anything from here on."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "prctl(PR_SET_NO_NEW_PRIVS)")


def signal_on_parent_death(signal_number: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal_number, "prctl(PR_SET_PDEATHSIG)")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _check(result, f"mount {source} on {target}")


def unmount(target: str) -> None:
    """Lazily: out of sight at once, gone with its last user."""
    _check(_libc.umount2(os.fsencode(target), _MNT_DETACH), f"unmount {target}")


def setns(namespace: int, kind: int = 0) -> None:
    """Moves this process into the namespace that the descriptor stands for."""
    _check(_libc.setns(namespace, kind), "setns")


def give(file: int, user: int) -> None:
    """What the descriptor stands for (O_PATH will do; a link is the link itself) to a user and its group."""
    what = _libc.fchownat(file, b"", ctypes.c_uint(user), ctypes.c_uint(user), _AT_EMPTY_PATH)
    _check(what, f"chown to {user}")


def clone_mount(directory: int, recursive: bool = False) -> int:
    """A descriptor of a mount of its own of what the descriptor stands for, and of what is mounted below it
    if `recursive`; it is mounted nowhere yet."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    made = _libc.syscall(_SYS_OPEN_TREE, directory, b"", ctypes.c_uint(flags))
    _check(0 if made >= 0 else -1, "open_tree")
    return made


def map_ids(mount: int, users: int) -> None:
    """Shows, on a cloned mount, each id of the disk as the one that the user namespace maps it to."""
    attributes = struct.pack(
        "=QQQQ", _MOUNT_ATTR_IDMAP | _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV | _MOUNT_ATTR_NOEXEC, 0, 0, users
    )
    call = (_SYS_MOUNT_SETATTR, mount, b"", ctypes.c_uint(_AT_EMPTY_PATH), attributes, len(attributes))
    _check(_libc.syscall(*call), "mount_setattr")


def move_mount(mount: int, target: str) -> None:
    """Mounts a clone, in the mount namespace of this process."""
    path, flags = os.fsencode(target), ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)
    result = _libc.syscall(_SYS_MOVE_MOUNT, mount, b"", _AT_FDCWD, path, flags)
    _check(result, f"move_mount to {target}")


def be_dumpable() -> None:
    """After a change of users: /proc/PID is this process's own again, as that of any program of its user."""
    _prctl(_PR_SET_DUMPABLE, 1, "prctl(PR_SET_DUMPABLE)")


def drop_bounding_set() -> None:
    """No program that this process runs gains a capability that way. It keeps those that it has."""
    number = 0
    while _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0) == 0:
        number += 1  # up to the last that this kernel has


def drop_capabilities() -> None:
    """Every one, from every set, for good."""
    drop_bounding_set()
    _libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def filter_calls(program: bytes) -> None:
    """Puts this process, and all it starts, under a seccomp program (an array of struct sock_filter)."""
    code = ctypes.create_string_buffer(program, len(program))
    loaded = _FilterProgram(len(program) // 8, ctypes.addressof(code))
    result = _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(loaded), 0, 0)
    _check(result, "prctl(PR_SET_SECCOMP)")
