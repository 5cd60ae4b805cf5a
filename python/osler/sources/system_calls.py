"""Lets this process make only the system calls that decoding needs, for good: Linux on x86-64 and aarch64.

A filter that the kernel runs before each call (seccomp, mode 2). It lists what is allowed; every other call, those that
come with later kernels too, fails as one without permission does. Used by `osler.sources.worker`, and by nothing else.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

__all__ = ["only_decoding"]

# Numbers on x86-64 and on aarch64 (Linux: asm/unistd_64.h, asm-generic/unistd.h). None of these opens, names or removes
# a file, or reaches another process.
_ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "sigaltstack": (131, 132),
    "setrlimit": (160, 164),
    "gettid": (186, 178),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "rseq": (334, 293),
}
_MMAP, _MPROTECT, _TGKILL, _PRLIMIT = (9, 222), (10, 226), (234, 131), (302, 261)
# What the kernel calls a machine, the number of the call that installs a filter there, and the column above.
_MACHINES = {"x86_64": (0xC000_003E, 317, 0), "aarch64": (0xC000_00B7, 277, 1)}
_PR_SET_NO_NEW_PRIVS, _SET_MODE_FILTER, _EVERY_THREAD = 38, 1, 1
_PROT_EXEC, _EPERM = 4, 1
# Operations of the kernel's filter language: load a word, compare it, answer.
_LOAD, _EQUAL, _HAS_BITS, _ANSWER = 0x20, 0x15, 0x45, 0x06
_ALLOW, _FAIL, _KILL = 0x7FFF_0000, 0x0005_0000 | _EPERM, 0x8000_0000
# Where a call's number, machine and arguments lie; only low halves are looked at, which is all that the kernel uses
# of these arguments.
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("operations", ctypes.c_char_p))


def only_decoding() -> bool:
    """Give up all system calls that decoding does not need, in every thread; False where that is not possible.

    What stays: read and write what is open, take memory that holds no code, wait, lower limits, end this process.

    Examples
    --------
    It cannot be undone, so this is a process of its own:

    >>> import subprocess, sys
    >>> code = '''
    ... import os
    ... from osler.sources.system_calls import only_decoding
    ... if only_decoding():
    ...     try:
    ...         os.unlink("a file")
    ...     except PermissionError:
    ...         os.write(1, b"refused")
    ... else:
    ...     os.write(1, b"not possible here")
    ... os._exit(0)
    ... '''
    >>> subprocess.run([sys.executable, "-c", code], capture_output=True).stdout in (b"refused", b"not possible here")
    True
    """
    if sys.platform != "linux" or platform.machine() not in _MACHINES or sys.maxsize < 1 << 32:
        return False
    machine, install, column = _MACHINES[platform.machine()]
    operations = b"".join(struct.pack("<HBBI", *operation) for operation in _filter(machine, column, os.getpid()))
    program = _Program(len(operations) // 8, operations)
    libc = ctypes.CDLL(None)
    # Without this only an administrator may install a filter; a program that is started could shed it.
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    installed: int = libc.syscall(install, _SET_MODE_FILTER, _EVERY_THREAD, ctypes.byref(program))
    return installed == 0


def _filter(machine: int, column: int, process: int) -> list[tuple[int, int, int, int]]:
    """Return operations: code, steps to skip if it holds, steps to skip if not, operand."""

    def where(
        call: tuple[int, int], argument: int, code: int, operand: int, then: int, otherwise: int
    ) -> list[tuple[int, int, int, int]]:
        """Decide one call by one of its arguments."""
        return [
            (_EQUAL, 0, 4, call[column]),
            (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
            (code, 0, 1, operand),
            (_ANSWER, 0, 0, then),
            (_ANSWER, 0, 0, otherwise),
        ]

    return [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, machine),
        (_ANSWER, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *where(_MMAP, 2, _HAS_BITS, _PROT_EXEC, _FAIL, _ALLOW),
        *where(_MPROTECT, 2, _HAS_BITS, _PROT_EXEC, _FAIL, _ALLOW),
        # A library that finds itself broken ends its own process so; the C library asks for limits so.
        *where(_TGKILL, 0, _EQUAL, process, _ALLOW, _FAIL),
        *where(_PRLIMIT, 0, _EQUAL, 0, _ALLOW, _FAIL),
        *(
            operation
            for call in _ALLOWED.values()
            for operation in ((_EQUAL, 0, 1, call[column]), (_ANSWER, 0, 0, _ALLOW))
        ),
        (_ANSWER, 0, 0, _FAIL),
    ]
