"""Confinement of the process that reads one file.

On Linux a filter of system calls takes away network, other programs, other processes and writing to any file
that is not open already. Limits of memory, CPU time and file size hold wherever the system has them; what is
missing is missing quietly here, and said by ``seigh doctor``.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from contextlib import suppress

from seigh.core.reading.words import Limits

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 38, 22
_SECCOMP_MODE_FILTER = 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38

# Classic BPF: load a word, jump if equal / if any bit is set / if greater or equal, return.
_LOAD, _EQUAL, _ANY, _FROM, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
# Where a filter finds the number, the architecture and the lower halves of the arguments of a call.
_NUMBER, _ARCHITECTURE = 0, 4
_FIRST_ARGUMENT = 16

_CLONE_THREAD = 0x10000
_O_WRITES = 0o1 | 0o2 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
_X32 = 0x40000000

# The numbers of the system calls that are refused, on x86-64 and on 64-bit ARM, which lacks some.
_REFUSED = {
    # Network.
    "socket": (41, 198), "socketpair": (53, 199), "bind": (49, 200), "connect": (42, 203),
    "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206),
    "sendmsg": (46, 211), "sendmmsg": (307, 269), "recvfrom": (45, 207), "recvmsg": (47, 212),
    "recvmmsg": (299, 243), "getsockname": (51, 204), "getpeername": (52, 205), "setsockopt": (54, 208),
    "getsockopt": (55, 209), "shutdown": (48, 210),
    # Other programs and processes, and their memory.
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "kill": (62, 129),
    "tkill": (200, 130), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "prlimit64": (302, 261),
    "setrlimit": (160, 164),
    # Files and folders by their names.
    "creat": (85, None), "truncate": (76, 45), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None),
    "link": (86, None), "linkat": (265, 37), "unlink": (87, None), "unlinkat": (263, 35),
    "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33),
    "chmod": (90, None), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "openat2": (437, 437),
    "open_by_handle_at": (304, 265), "chdir": (80, 49), "chroot": (161, 51), "mount": (165, 40),
    "umount2": (166, 39), "pivot_root": (155, 41), "move_mount": (429, 429), "open_tree": (428, 428),
    "fsopen": (430, 430), "fsmount": (432, 432),
    # The system.
    "unshare": (272, 97), "setns": (308, 268), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "sethostname": (170, 161), "setdomainname": (171, 162), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145),
    "setregid": (114, 143), "setresuid": (117, 147), "setresgid": (119, 149), "setgroups": (116, 159),
    "capset": (126, 91), "quotactl": (179, 60), "swapon": (167, 224), "swapoff": (168, 225),
    "acct": (163, 89), "memfd_create": (319, 279),
}  # fmt: skip
_OTHERS = {"clone": (56, 220), "clone3": (435, 435), "open": (2, None), "openat": (257, 56)}
# The number of an architecture, and which of two numbers is its own.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


# From so many bytes of address space on, memory is why a confined process fails; 0 before it is confined.
_full_from = 0


def die_with_parent(parent: int) -> None:
    """Let the system kill this process when the one that forked it ends."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def confine(limits: Limits) -> bool:
    """Take from this process what reading a file does not need.

    Returns:
        Whether network, programs and files are among it; limits are set in any case.
    """
    _limit("RLIMIT_CORE", 0)
    _limit("RLIMIT_CPU", limits.seconds, limits.seconds + 1)
    _limit("RLIMIT_FSIZE", max(limits.output, 2**26))
    _limit("RLIMIT_NOFILE", 64)
    global _full_from
    if used := _address_space():
        _full_from = used + limits.memory // 2
        _limit("RLIMIT_AS", used + limits.memory)
    with suppress(OSError, AttributeError, KeyError):
        return _filter_calls()
    return False


def is_full() -> bool:
    """Whether this process has had more than half of the memory that it may take.

    Where memory is refused, C code may fail with another error than ``MemoryError``, and has given back what
    it had before anybody can ask. A container that grows asks for as much again as it has, so that memory may
    be refused with half of it taken.
    """
    return bool(_full_from) and _most_address_space() > _full_from


def _limit(name: str, soft: int, hard: int | None = None) -> None:
    """Lower a limit, which no process may raise again."""
    with suppress(AttributeError, ValueError, OSError):
        number = getattr(resource, name)
        highest = resource.getrlimit(number)[1]
        wanted = soft if hard is None else hard
        if highest != resource.RLIM_INFINITY:
            soft, wanted = min(soft, highest), min(wanted, highest)
        resource.setrlimit(number, (soft, wanted))


def _address_space() -> int:
    """Bytes of address space that this process has; 0 where that is not known."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return 0


def _most_address_space() -> int:
    """Bytes of address space that this process has had at most; 0 where that is not known."""
    try:
        with open("/proc/self/status", "rb") as file:
            return next((1024 * int(line.split()[1]) for line in file if line.startswith(b"VmPeak:")), 0)
    except (OSError, ValueError):
        return 0


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _filter_calls() -> bool:
    if sys.platform != "linux":
        return False
    program = _program(*_MACHINES[platform.machine()])
    code = ctypes.create_string_buffer(program)

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    libc = _libc()
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    argument = Filter(len(program) // 8, ctypes.addressof(code))
    return not libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(argument), 0, 0)


def _program(architecture: int, which: int) -> bytes:
    """The filter, in which every refused call has a comparison and a return of its own."""
    numbers = {name: both[which] for name, both in (_REFUSED | _OTHERS).items()}
    refuse, absent = _ERRNO | _EPERM, _ERRNO | _ENOSYS

    def at(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("<HBBI", code, if_true, if_false, value)

    def when(name: str, *then: bytes) -> list[bytes]:
        number = numbers[name]
        return [] if number is None else [at(_EQUAL, number, 0, len(then)), *then]

    def by_flags(name: str, argument: int, flags: int, *, wanted: bool) -> list[bytes]:
        """Refuse a call whose argument has any of the flags, or, if they are wanted, none."""
        return when(
            name,
            at(_LOAD, _FIRST_ARGUMENT + 8 * argument),
            at(_ANY, flags, *((1, 0) if wanted else (0, 1))),
            at(_RETURN, refuse),
            at(_RETURN, _ALLOW),
        )

    lines = [at(_LOAD, _ARCHITECTURE), at(_EQUAL, architecture, 1, 0), at(_RETURN, refuse)]
    lines += [at(_LOAD, _NUMBER), at(_FROM, _X32, 0, 1), at(_RETURN, refuse)]
    for name in _REFUSED:
        lines += when(name, at(_RETURN, refuse))
    # Threads are made with clone, where the arguments can be seen; the C library goes back to it.
    lines += when("clone3", at(_RETURN, absent))
    lines += by_flags("clone", 0, _CLONE_THREAD, wanted=True)
    lines += by_flags("open", 1, _O_WRITES, wanted=False)
    lines += by_flags("openat", 2, _O_WRITES, wanted=False)
    lines.append(at(_RETURN, _ALLOW))
    return b"".join(lines)
