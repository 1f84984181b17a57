"""What the process keeps of memory that nobody uses any more."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

ARENAS = 2
M_ARENA_MAX = -8
"""glibc's malloc.h."""
_SAID = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")


def few_arenas() -> bool:
    """Have all threads allocate from few arenas (glibc), unless the environment says how many; whether that was done.

    Each request has a thread, and glibc has up to eight arenas a core for them: what a request frees stays in its
    arena, where the next, in another, finds none of it. To be called before there are threads."""
    if any(name in os.environ for name in _SAID):
        return False
    with suppress(OSError, AttributeError, TypeError):  # another system, another libc
        return bool(ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS))
    return False
