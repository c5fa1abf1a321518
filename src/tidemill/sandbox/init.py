"""The first process of a job's PID namespace: an ELF program of 300 bytes, which is put together here.

bubblewrap's own init folds a death by signal N and an exit with 128 + N into one number. This one starts the
job, reaps what is orphaned, and ends when the job does, with its exit code. What a code cannot say goes to
SAID_FD: one byte is the signal that killed the job; two, 0 and an errno, say that it could not be started.
bubblewrap writes the program into each sandbox, from INIT_FD. A job costs one copy of bubblewrap less.

For a container of runc it does two things first: it hides itself (nobody of its own user reads its memory or
its descriptors in /proc), and puts itself, and so the job, under the seccomp filter that it brings along.

Numbers: Linux `arch/x86/entry/syscalls/syscall_64.tbl`. A program finds argc, argv, NULL and envp on its
stack when it starts (System V ABI).
"""

from __future__ import annotations

import os
import struct

SAID_FD = 4
CONTAINED_SAID_FD = 3  # in a container: the first that runc hands on
INIT_FD = 5
PATH = "/.tidemill-init"  # in the sandbox
_BASE = 0x400000  # where it is loaded
_X86_64 = (
    "4c8d642410",  # lea r12,[rsp+0x10]  ; argv + 1
    "488b0424",  # mov rax,[rsp]
    "4c8d6cc410",  # lea r13,[rsp+rax*8+0x10]  ; envp
    "50",  # push rax
    "FIRST",
    "b839000000",  # mov eax,0x39  ; fork
    "0f05",  # syscall
    "85c0",  # test eax,eax
    "7464",  # je child
    "0f8885000000",  # js failed
    "89c5",  # mov ebp,eax
    # wait:
    "b83d000000",  # mov eax,0x3d  ; wait4(-1, stack, 0, 0)
    "83cfff",  # or edi,-1
    "4889e6",  # mov rsi,rsp
    "31d2",  # xor edx,edx
    "4531d2",  # xor r10d,r10d
    "0f05",  # syscall
    "39e8",  # cmp eax,ebp  ; its own child? another was an orphan
    "740c",  # je ended
    "83f8f6",  # cmp eax,-10  ; ECHILD
    "75e5",  # jne wait
    "bf7d000000",  # mov edi,0x7d
    "eb21",  # jmp leave
    # ended:
    "0fb67c2401",  # movzx edi,byte [rsp+0x1]  ; its exit code
    "f604247f",  # test byte [rsp],0x7f  ; or its death by a signal, which is said
    "7416",  # je leave
    "ba01000000",  # mov edx,0x1
    "e813000000",  # call say
    "8b3c24",  # mov edi,[rsp]
    "83e77f",  # and edi,0x7f
    "81c780000000",  # add edi,0x80
    # leave:
    "b8e7000000",  # mov eax,0xe7  ; exit_group(edi)
    "0f05",  # syscall
    # say:
    "b801000000",  # mov eax,0x1  ; write(SAID_FD, what the caller sees at its stack, edx)
    "bfSAID000000",  # mov edi,SAID_FD
    "488d742408",  # lea rsi,[rsp+0x8]
    "0f05",  # syscall
    "c3",  # ret
    # child:
    "b848000000",  # mov eax,0x48  ; fcntl(SAID_FD, F_SETFD, FD_CLOEXEC)
    "bfSAID000000",  # mov edi,SAID_FD
    "be02000000",  # mov esi,0x2
    "ba01000000",  # mov edx,0x1
    "0f05",  # syscall
    "498b3c24",  # mov rdi,[r12]
    "4c89e6",  # mov rsi,r12
    "4c89ea",  # mov rdx,r13
    "b83b000000",  # mov eax,0x3b  ; execve(argv[1], argv + 1, envp)
    "0f05",  # syscall
    # failed:
    "f7d8",  # neg eax  ; errno
    "c6042400",  # mov byte [rsp],0x0
    "88442401",  # mov byte [rsp+0x1],al
    "ba02000000",  # mov edx,0x2
    "e8b3ffffff",  # call say
    "bf7f000000",  # mov edi,0x7f
    "eba5",  # jmp leave
)
_HIDE_AND_FILTER = (
    "b89d000000",  # mov eax,0x9d  ; prctl(PR_SET_DUMPABLE, 0)
    "bf04000000",  # mov edi,0x4
    "31f6",  # xor esi,esi
    "0f05",  # syscall
    "b89d000000",  # mov eax,0x9d  ; prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, struct sock_fprog)
    "bf16000000",  # mov edi,0x16
    "be02000000",  # mov esi,0x2
    "baRULES",  # mov edx,RULES  ; behind the code
    "0f05",  # syscall
    "85c0",  # test eax,eax
    "0f8596000000",  # jne failed
)
_START = 64 + 56  # of the code: behind the two headers


def program(machine: str) -> bytes:
    """The ELF file; b"" for a machine (`os.uname().machine`) that it is not written for."""
    return _elf(_code("", SAID_FD)) if machine == "x86_64" else b""


def contained(machine: str, rules: bytes) -> bytes:
    """The one for a container, under the seccomp program `rules`; it speaks on CONTAINED_SAID_FD."""
    if machine != "x86_64":
        return b""
    first = "".join(_HIDE_AND_FILTER)
    at = _BASE + _START + len(_code(first.replace("RULES", "0" * 8), CONTAINED_SAID_FD))
    code = _code(first.replace("RULES", struct.pack("<I", at).hex()), CONTAINED_SAID_FD)
    fprog = struct.pack("<HxxxxxxQ", len(rules) // 8, at + 16)  # struct sock_fprog; the rules follow it
    return _elf(code + fprog + rules)


def _code(first: str, said: int) -> bytes:
    return bytes.fromhex("".join(_X86_64).replace("FIRST", first).replace("SAID", f"{said:02x}"))


def _elf(code: bytes) -> bytes:
    size = _START + len(code)
    header = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)  # 64 bits, little-endian
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _START, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)  # read and execute
    return header + segment + code


def heard(fd: int) -> tuple[int | None, int]:
    """From what it said: (signal that killed the job or None, errno of its start or 0)."""
    said = os.pread(fd, 2, 0)
    if len(said) == 2:
        return None, said[1]
    return (said[0] & 0x7F if said else None), 0
