"""The filter as the kernel reads it: run here by a small BPF machine, for both architectures."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.sandbox import seccomp
from tidemill.sandbox.seccomp import ALLOW, EAFNOSUPPORT, ENOSYS, EPERM, KILL

MACHINES = sorted(seccomp.ARCHITECTURES)
CALLS = {  # name -> (x86_64, aarch64): linux' syscall_64.tbl and unistd.h
    "read": (0, 63),
    "openat": (257, 56),
    "execve": (59, 221),
    "clone": (56, 220),
    "clone3": (435, 435),
    "unshare": (272, 97),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "socket": (41, 198),
    "ioctl": (16, 29),
    "personality": (135, 92),
    "mount": (165, 40),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "futex": (202, 98),
}


def run(machine: str, call: str | int, *args: int, arch: int | None = None, builds: bool = False) -> int:
    """What the filter answers. Classic BPF over struct seccomp_data: nr, arch, ip, args[6]."""
    number = call if isinstance(call, int) else CALLS[call][MACHINES.index(machine) == 0]
    padded = [value & (1 << 64) - 1 for value in (*args, *[0] * (6 - len(args)))]
    data = struct.pack("<IIQ6Q", number, arch or seccomp.ARCHITECTURES[machine], 0, *padded)
    program = list(struct.iter_unpack("<HBBI", seccomp.program(machine, builds)))
    at = accumulator = 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif code == 0x54:
            accumulator &= k
        elif code == 0x06:
            return k
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_what_a_job_needs_is_allowed(machine: str) -> None:
    for call in ("read", "openat", "execve", "futex"):
        assert run(machine, call) == ALLOW
    assert run(machine, "clone", 0x3D0F00) == ALLOW  # a thread, as glibc makes it
    assert run(machine, "clone", 17) == ALLOW  # fork: SIGCHLD
    assert run(machine, "unshare", 0x400) == ALLOW  # CLONE_FILES
    assert run(machine, "ioctl", 0, 0x5413) == ALLOW  # TIOCGWINSZ
    assert run(machine, "personality", 0xFFFFFFFF) == ALLOW
    for family, kind, protocol in ((1, 1, 0), (2, 1, 6), (2, 2, 17), (10, 1, 0), (16, 3, 0)):
        assert run(machine, "socket", family, kind | 0o2000000, protocol) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_a_dockerfiles_build_may_mount_and_little_more(machine: str) -> None:
    for call in seccomp._DENIED:
        number = seccomp.number(call, machine)
        if number is not None:
            wanted = ALLOW if call in seccomp.BUILDS else EPERM
            assert run(machine, number, builds=True) == wanted, call
    for call in ("unshare", "clone"):
        assert (
            run(machine, call, 0x20000 | 0x4000000 | 0x8000000 | 0x20000000, builds=True) == ALLOW
        )  # NS, UTS, …
        for never in (0x10000000, 0x40000000, 0x02000000):  # USER, NET, CGROUP
            assert run(machine, call, 0x20000 | never, builds=True) == EPERM
    assert run(machine, "socket", 2, 3, 1, builds=True) == EPERM  # raw
    assert run(machine, "socket", 16, 3, 9, builds=True) == seccomp.EPROTONOSUPPORT  # auditing


@pytest.mark.parametrize("machine", MACHINES)
def test_what_a_job_may_not_do(machine: str) -> None:
    for call in seccomp._DENIED:
        number = seccomp.number(call, machine)
        if number is not None:
            assert run(machine, number) == EPERM, call
    for call in ("mount", "keyctl", "bpf", "io_uring_setup"):
        assert run(machine, call) == EPERM
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert run(machine, "unshare", bit) == EPERM
        assert run(machine, "clone", bit | 17) == EPERM
    assert run(machine, "unshare", 0x80) == EPERM  # CLONE_NEWTIME
    assert run(machine, "clone3") == ENOSYS
    assert run(machine, "ioctl", 0, 0x5412) == EPERM  # TIOCSTI
    assert run(machine, "personality", 0x0040000 | 0x400000) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_only_the_init_is_out_of_reach_of_a_debugger(machine: str) -> None:
    for seize in (16, 0x4206):
        assert run(machine, "ptrace", seize, 1) == EPERM
        assert run(machine, "ptrace", seize, 1 | 1 << 32) == EPERM  # the kernel reads the low half, too
        assert run(machine, "ptrace", seize, 7) == ALLOW
    for call in ("process_vm_readv", "process_vm_writev"):
        assert run(machine, call, 1) == EPERM
        assert run(machine, call, 7) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_sockets_that_are_no_business_of_a_job(machine: str) -> None:
    for family in (3, 9, 15, 17, 29, 31, 38, 40, 44):
        assert run(machine, "socket", family, 1, 0) == EAFNOSUPPORT
    for family in (2, 10):
        assert run(machine, "socket", family, 3 | 0o4000, 1) == EPERM  # SOCK_RAW
    assert run(machine, "socket", 16, 3, 9) == EPERM  # NETLINK_AUDIT


def test_other_architectures_do_not_pass_by_the_list() -> None:
    assert run("x86_64", 21, arch=0x40000003) == KILL  # i386: its 21 is mount
    assert run("x86_64", seccomp.X32_BIT | 165) == ENOSYS
    with pytest.raises(KeyError):
        seccomp.program("riscv64")


@given(st.sampled_from(MACHINES), st.integers(0, 600), st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_every_call_gets_an_answer(machine: str, number: int, args: list[int]) -> None:
    assert run(machine, number, *args) in (ALLOW, EPERM, ENOSYS, EAFNOSUPPORT)
