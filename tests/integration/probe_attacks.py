"""What an attacker's job tries. Runs inside the job, with nothing but Python's standard library.

Reads its targets as JSON from the environment variable PROBE and prints {attack: whether it succeeded}. An
attack never harms what it reaches: a signal it may send is signal 0, what it may trace it lets go.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import time

TARGET = json.loads(os.environ.get("PROBE", "{}"))
LIBC = ctypes.CDLL(None, use_errno=True)
ARM = os.uname().machine == "aarch64"
ATTACKS = {}


def attack(function):
    ATTACKS[function.__name__] = function
    return function


def call(x86: int, arm: int, *args: int) -> int:
    """A system call's result; OSError where it fails."""
    result = LIBC.syscall(arm if ARM else x86, *(ctypes.c_long(value) for value in args))
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def in_child(action) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def read(path: str) -> bool:
    with open(path, "rb") as file:
        file.read(1)
    return True


def connect(family: int, address) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        sock.connect(address)
    return True


# --- files


@attack
def read_anothers_job_file():
    return read(TARGET["victim_dir"] + "/secret.txt")


@attack
def read_anothers_log():
    return read(TARGET["victim_dir"] + "/../user_logs/std_log.txt")


@attack
def list_the_nodes():
    return bool(set(os.listdir(TARGET["home"] + "/nodes")) - {TARGET["node"]})


@attack
def read_the_signing_key():
    return read(TARGET["home"] + "/secrets/signing.pem")


@attack
def read_the_database():
    return read(TARGET["home"] + "/db/tidemill.db")


@attack
def read_stored_blobs():
    return bool(os.listdir(TARGET["home"] + "/blobs"))


@attack
def write_into_the_environments():
    path = TARGET["home"] + "/envs/planted"
    with open(path, "w"):
        pass
    os.unlink(path)
    return True


@attack
def command_its_own_agent():
    return connect(socket.AF_UNIX, TARGET["agent_sock"])


@attack
def read_a_file_of_the_host_that_everyone_may():
    return read(TARGET["host_file"])


@attack
def write_where_everyone_may():
    path = TARGET["host_folder"] + "/planted"
    with open(path, "w"):
        pass
    os.unlink(path)
    return True


@attack
def write_into_usr():
    with open("/usr/bin/planted-by-a-probe", "w"):
        return True


@attack
def read_the_shadow_file():
    return read("/etc/shadow")


@attack
def learn_the_users_of_the_host():
    with open("/etc/passwd") as file:
        return len(file.readlines()) > 5


@attack
def find_devices_of_the_host():
    return bool(set(os.listdir("/dev")) & {"kmsg", "mem", "loop-control", "net", "vda", "sda", "cpu"})


@attack
def read_a_shared_memory_file():
    return read("/dev/shm/" + TARGET["shm_name"])


# --- processes


def victim() -> int:
    """The victim's process, if it can be seen."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline") as file:
                    words = file.read().split("\0")
            except OSError:
                continue
            if TARGET["victim_mark"] in words:
                return int(name)
    raise ProcessLookupError


@attack
def see_anothers_process():
    return victim() > 0


@attack
def read_anothers_environment():
    return read(f"/proc/{TARGET['victim_pid']}/environ")


@attack
def signal_anothers_process():
    os.kill(TARGET["victim_pid"], 0)
    return True


@attack
def trace_anothers_process():
    call(101, 117, 0x4206, TARGET["victim_pid"], 0, 0)  # PTRACE_SEIZE
    return True  # it is let go when this job ends


@attack
def signal_its_agent():
    os.kill(TARGET["agent_pid"], 0)
    return True


@attack
def signal_the_server():
    os.kill(TARGET["server_pid"], 0)
    return True


@attack
def read_the_server_s_environment():
    return read(f"/proc/{TARGET['server_pid']}/environ")


@attack
def write_into_the_first_process():
    os.close(os.open("/proc/1/mem", os.O_RDWR))
    return True


@attack
def trace_the_first_process():
    call(101, 117, 0x4206, 1, 0, 0)
    return True


@attack
def attach_sysv_shared_memory():
    # shmget of the key that the victim made, for everyone
    return LIBC.shmget(ctypes.c_int(TARGET["shm_key"]), 0, 0) >= 0


@attack
def learn_the_host_s_name():
    return socket.gethostname() == TARGET["hostname"]


# --- privileges


@attack
def become_root_by_a_user_namespace():
    return in_child(lambda: call(272, 97, 0x10000000))


@attack
def become_root_by_clone():
    def made():
        flags = 0x10000000 | 17  # CLONE_NEWUSER | SIGCHLD, with fork's semantics
        pid = call(56, 220, flags, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    return in_child(made)


@attack
def mount_something():
    return LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0


@attack
def open_a_packet_socket():
    socket.socket(17, socket.SOCK_RAW).close()
    return True


@attack
def use_the_kernel_s_keyring():
    return call(250, 219, 0, -3 & 0xFFFFFFFFFFFFFFFF, 1) > 0  # KEYCTL_GET_KEYRING_ID, the session's, make it


@attack
def load_a_bpf_program():
    # EINVAL means that the kernel looked at it; EPERM, that it did not.
    try:
        call(321, 280, 0, 0, 0)
    except OSError as error:
        return error.errno not in (1, 38)
    return True


@attack
def start_io_uring():
    try:
        call(425, 425, 1, 0)
    except OSError as error:
        return error.errno not in (1, 38)
    return True


@attack
def hold_capabilities():
    with open("/proc/self/status") as file:
        sets = dict(line.split(":") for line in file if line.startswith("Cap"))
    return any(int(sets[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"))


@attack
def gain_by_set_uid():
    with open("/proc/self/status") as file:
        return "NoNewPrivs:\t1" not in file.read()


@attack
def change_the_kernel_s_settings():
    with open("/proc/sys/kernel/core_pattern", "r+"):
        return True


@attack
def leave_its_cgroup():
    for folder, _, files in os.walk("/sys/fs/cgroup"):
        if "cgroup.procs" in files:
            with open(folder + "/cgroup.procs", "r+"):
                return True
    return False


# --- network


@attack
def connect_to_an_abstract_socket():
    return connect(socket.AF_UNIX, "\0" + TARGET["abstract"])


@attack
def connect_to_anothers_port():
    return connect(socket.AF_INET, ("127.0.0.1", TARGET["victim_port"]))


@attack
def connect_to_a_service_of_the_host():
    return connect(socket.AF_INET, ("127.0.0.1", TARGET["host_port"]))


# --- the victim


def be_a_victim() -> None:
    """Holds everything that the attacks look for, until it is told to end."""
    with open("secret.txt", "w") as file:
        file.write("secret of team a")
    os.chmod("secret.txt", 0o644)
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0" + TARGET["abstract"])
    abstract.listen()
    port = socket.socket()
    port.bind(("127.0.0.1", TARGET["victim_port"]))
    port.listen()
    with open("/dev/shm/" + TARGET["shm_name"], "w") as file:
        os.chmod(file.name, 0o644)
    key = LIBC.shmget(ctypes.c_int(TARGET["shm_key"]), 4096, 0o1000 | 0o666)  # IPC_CREAT
    print("ready", os.getpid(), os.readlink("/proc/self/ns/pid"), flush=True)
    try:
        while not os.path.exists("end"):
            time.sleep(0.05)
    finally:
        os.unlink("/dev/shm/" + TARGET["shm_name"])
        LIBC.shmctl(key, 0, None)  # IPC_RMID


def attempt(function) -> bool:
    try:
        return bool(function())
    except OSError:
        return False


if __name__ == "__main__":
    if sys.argv[1] == "victim":
        be_a_victim()
    else:
        print(json.dumps({name: attempt(function) for name, function in ATTACKS.items()}))
