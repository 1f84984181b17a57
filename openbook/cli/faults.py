"""How a command that failed ends: one line that says what and what to do, and an exit status."""

from __future__ import annotations

import errno
import os
import sys
import traceback

from openbook.cli.output import complain
from openbook.errors import Fault

FAULT, STOPPED, PIPE_CLOSED = 1, 130, 141
"""The last two as shells count them: 128 + the signal's number."""


def told(error: BaseException, debug: bool) -> int:
    """Say the error on standard error in one line (after the traceback, if `debug`); returns the exit status."""
    if isinstance(error, BrokenPipeError):
        return _quiet()
    if isinstance(error, SystemExit):
        raise error
    if debug:
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        if sys.stderr.isatty():
            print(file=sys.stderr)  # the terminal has written ^C, and perhaps half a line before it
        complain("stopped; what was stored stays, run again to go on")
        return STOPPED
    complain(_line(error))
    return FAULT


def _line(error: BaseException) -> str:
    if isinstance(error, Fault):
        return str(error)
    if isinstance(error, RecursionError):
        return "a file is nested too deeply to be read; run again with --debug to see which"
    if isinstance(error, MemoryError):
        return "there is not enough memory; close other programs, or ask for fewer --passages"
    if isinstance(error, OSError):
        return _of_system(error)
    words = " ".join(str(error).split())[:300]
    return f"unexpected {type(error).__name__}: {words}; run again with --debug for a traceback, and report it"


def _of_system(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename is not None else ""
    remedies = {
        errno.ENOSPC: "free some space and run the same command again",
        errno.EDQUOT: "free some space and run the same command again",
        errno.EFBIG: "the system allows no file this large here",
        errno.EACCES: "change its permissions, or name another place",
        errno.EPERM: "change its permissions, or name another place",
        errno.EROFS: "name a place that can be written",
        errno.ENOENT: "check the path",
        errno.ENOTDIR: "check the path",
        errno.EISDIR: "name a file in it",
    }
    remedy = remedies.get(error.errno or 0, "run again with --debug for a traceback")
    return f"{where}{error.strerror or error}; {remedy}"


def _quiet() -> int:
    """Whoever read our output has gone: nothing is left to say, also not when Python flushes at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return PIPE_CLOSED
