"""The system calls that a job may not make, as a classic BPF program for `seccomp`.

A deny list: what a job has no use for and an attacker has. Everything else is allowed, and the kernel
remembers that per call (since 5.11), so the filter costs a job nothing. A refused call fails with EPERM; what
a C library falls back from (clone3, whose flags lie in memory that no filter can read) with ENOSYS; a program
of a foreign architecture is killed, because its call numbers mean something else.

Numbers: Linux `arch/x86/entry/syscalls/syscall_64.tbl` and `include/uapi/asm-generic/unistd.h`. From 424 on
all architectures share them.
"""

from __future__ import annotations

import errno
import struct

ALLOW = 0x7FFF0000
KILL = 0x80000000
ERRNO = 0x00050000
EPERM = ERRNO | errno.EPERM
ENOSYS = ERRNO | errno.ENOSYS
EPROTONOSUPPORT = ERRNO | errno.EPROTONOSUPPORT  # of a kernel without auditing: useradd goes on then
EAFNOSUPPORT = ERRNO | errno.EAFNOSUPPORT

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*
X32_BIT = 0x40000000  # x86_64's other calling convention: its numbers would pass by the list

# Name -> (x86_64, aarch64); None where an architecture lacks the call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # what is mounted where
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    # parts of the kernel that have been its weak ones
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "lookup_dcookie": (212, 18),
    "vmsplice": (278, 75),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    # the machine itself
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "create_module": (174, None),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "nfsservctl": (180, 42),
    "_sysctl": (156, None),
    # another process's descriptors: the init's, above all
    "pidfd_getfd": (438, 438),
}

# What building a Dockerfile needs: whoever makes them is root of a user namespace, and of no other.
BUILDS = ("mount", "umount2", "pivot_root", "chroot", "sethostname", "setdomainname")
# CLONE_NEW{USER,NET,CGROUP,TIME}: not even there. In a network of its own it could name devices, in a cgroup
# namespace of its own mount the control groups, which hold it.
_NEVER = 0x10000000 | 0x40000000 | 0x02000000 | 0x80
NEW_NAMESPACES = 0x7E020000 | 0x80  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}; of unshare: NEWTIME, too
_CLONE_NAMESPACES = 0x7E020000  # in clone, 0x80 belongs to the exit signal
INIT = 1  # of the job's PID namespace: it reaps, and says how the job ended
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_RAW, _SOCK_TYPE_MASK = 3, 0xF
_NETLINK_ROUTE = 0
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
# ADDR_NO_RANDOMIZE is gdb's; the others are those that runc allows.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF)

_LOAD, _RETURN = 0x20, 0x06  # BPF_LD|W|ABS, BPF_RET|K
_AND = 0x54  # BPF_ALU|AND|K
_IF_EQUAL, _IF_GREATER_EQUAL, _IF_ANY_BIT = 0x15, 0x35, 0x45  # BPF_JMP|{JEQ,JGE,JSET}|K
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, k


def number(call: str, machine: str) -> int | None:
    """Of a call that is refused whatever its arguments are."""
    return _DENIED[call][list(ARCHITECTURES).index(machine)]


def program(machine: str, builds: bool = False) -> bytes:
    """The filter as bubblewrap reads it from a descriptor: an array of struct sock_filter. `builds`: for a
    Dockerfile's, which may mount. Raises KeyError for a machine (`os.uname().machine`) that it is not written
    for."""
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions(machine, builds))


def instructions(machine: str, builds: bool = False) -> list[Instruction]:
    arm = machine == "aarch64"
    namespaces = _NEVER if builds else NEW_NAMESPACES
    made: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, ARCHITECTURES[machine]),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if not arm:
        made += [(_IF_GREATER_EQUAL, 0, 1, X32_BIT), (_RETURN, 0, 0, ENOSYS)]
    for name, numbers in _DENIED.items():
        denied = numbers[arm]
        if denied is not None and not (builds and name in BUILDS):
            made += _when(denied, [(_RETURN, 0, 0, EPERM)])
    made += _when(435, [(_RETURN, 0, 0, ENOSYS)])  # clone3
    made += _when(97 if arm else 272, _refuse_bits(0, namespaces))  # unshare
    made += _when(220 if arm else 56, _refuse_bits(0, namespaces & _CLONE_NAMESPACES))  # clone
    made += _when(117 if arm else 101, _refuse_values(1, (INIT,)))  # ptrace(request, pid)
    made += _when(270 if arm else 310, _refuse_values(0, (INIT,)))  # process_vm_readv(pid)
    made += _when(271 if arm else 311, _refuse_values(0, (INIT,)))  # process_vm_writev(pid)
    made += _when(29 if arm else 16, _refuse_values(1, (_TIOCSTI, _TIOCLINUX)))  # ioctl(fd, request)
    made += _when(92 if arm else 135, _only_values(0, _PERSONALITIES))  # personality
    made += _when(198 if arm else 41, _socket(EPROTONOSUPPORT if builds else EPERM))
    made.append((_RETURN, 0, 0, ALLOW))
    return made


def _when(call: int, block: list[Instruction]) -> list[Instruction]:
    """The block, which returns on every way through it, for one call number."""
    return [(_IF_EQUAL, 0, len(block), call), *block]


def _argument(index: int) -> Instruction:
    """The low half: what is compared are ints and flags below 2^32, of which the kernel reads no more."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)


def _refuse_bits(index: int, bits: int) -> list[Instruction]:
    return [_argument(index), (_IF_ANY_BIT, 0, 1, bits), (_RETURN, 0, 0, EPERM), (_RETURN, 0, 0, ALLOW)]


def _refuse_values(index: int, values: tuple[int, ...]) -> list[Instruction]:
    tests: list[Instruction] = []
    for value in values:
        tests += [(_IF_EQUAL, 0, 1, value), (_RETURN, 0, 0, EPERM)]
    return [_argument(index), *tests, (_RETURN, 0, 0, ALLOW)]


def _only_values(index: int, values: tuple[int, ...]) -> list[Instruction]:
    tests: list[Instruction] = []
    for value in values:
        tests += [(_IF_EQUAL, 0, 1, value), (_RETURN, 0, 0, ALLOW)]
    return [_argument(index), *tests, (_RETURN, 0, 0, EPERM)]


def _socket(no_netlink: int) -> list[Instruction]:
    """socket(family, type, protocol): local, IPv4, IPv6, and what lists network interfaces. None of them raw:
    a packet of one's own making could carry a foreign address."""
    raw: list[Instruction] = [
        _argument(1),
        (_AND, 0, 0, _SOCK_TYPE_MASK),
        (_IF_EQUAL, 0, 1, _SOCK_RAW),
        (_RETURN, 0, 0, EPERM),
        (_RETURN, 0, 0, ALLOW),
    ]
    netlink: list[Instruction] = [
        _argument(2),
        (_IF_EQUAL, 0, 1, _NETLINK_ROUTE),
        (_RETURN, 0, 0, ALLOW),
        (_RETURN, 0, 0, no_netlink),
    ]
    return [
        _argument(0),
        (_IF_EQUAL, 0, 1, _AF_UNIX),
        (_RETURN, 0, 0, ALLOW),
        (_IF_EQUAL, 0, len(netlink), _AF_NETLINK),
        *netlink,
        (_IF_EQUAL, 1, 0, _AF_INET),
        (_IF_EQUAL, 0, len(raw), _AF_INET6),
        *raw,
        (_RETURN, 0, 0, EAFNOSUPPORT),
    ]
