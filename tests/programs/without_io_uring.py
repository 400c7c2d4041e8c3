"""Runs a command with a seccomp filter that denies io_uring, as container engines do by default.

CRIU cannot dump an io_uring, and libuv from 1.49 on makes one in every event loop (libuv#4638; UV_USE_IO_URING=0 no longer
prevents it).
"""

import ctypes
import os
import struct
import sys

IO_URING_SETUP = 425  # the same number on every architecture
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
ENOSYS = 38

# struct sock_filter {u16 code; u8 jt, jf; u32 k}: load the number of the system call, compare, return.
program = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, IO_URING_SETUP),
        (0x06, 0, 0, SECCOMP_RET_ERRNO | ENOSYS),
        (0x06, 0, 0, SECCOMP_RET_ALLOW),
    ]
)


class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Filter(len(program) // 8, program)), 0, 0):
    raise OSError(ctypes.get_errno(), "seccomp")
os.execv(sys.argv[1], sys.argv[1:])
