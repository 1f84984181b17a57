"""Landlock: this process may read Python's own files from now on, and nothing else of the disk; it may write nothing,
and open no TCP connection. It cannot be taken back, and holds for what the process starts.

Linux 5.13 and later (`man 7 landlock`); elsewhere nothing happens. The system calls have the same numbers on every
architecture.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

CREATE, ADD_RULE, RESTRICT = 444, 445, 446
VERSION = 1
BENEATH = 1
NO_NEW_PRIVILEGES = 38
EXECUTE, READ_FILE, READ_DIR = 1 << 0, 1 << 2, 1 << 3
RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Rights over files that each version knows, counted; later ones know 16."""
SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """Which Landlock the system has; 0 for none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(CREATE, None, 0, VERSION)))


def fence(readable: Iterable[str]) -> bool:
    """Keep this process to reading below these paths and the system's libraries; False where the system cannot."""
    known = version()
    if not known:
        return False
    libc = _libc()
    files = (1 << RIGHTS.get(known, 16)) - 1
    wanted = _Ruleset(files, 0b11 if known >= 4 else 0, 0b11 if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    rules = int(libc.syscall(CREATE, ctypes.byref(wanted), size, 0))
    if rules < 0:
        return False
    try:
        for path in dict.fromkeys((*readable, *SYSTEM)):
            _allow(libc, rules, path)
        if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
            return False
        return int(libc.syscall(RESTRICT, rules, 0)) == 0
    finally:
        os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, path: str) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = EXECUTE | READ_FILE | (READ_DIR if Path(path).is_dir() else 0)
        libc.syscall(ADD_RULE, rules, BENEATH, ctypes.byref(_Beneath(rights, handle)), 0)
    finally:
        os.close(handle)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
