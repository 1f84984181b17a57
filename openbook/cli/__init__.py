"""Floor 6: the command line. `openbook --help` says what it does, docs/cli.md how.

Importing this costs nothing: torch, Lance and the rest are imported by the command that needs them.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 a fault, 2 bad usage, 3 abstained, 130 stopped by Ctrl-C."""
    # Read by OpenMP when torch is imported. By default its idle threads spin; as soon as another program takes a
    # core they steal each other's time: one small answer took 31 s instead of 2.4 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Importing torch and building a tokenizer make a million objects that stay; Python's collector, at its default of
    # 700, looks through them again and again: 0.17 to 0.3 s of a start. What leaks in cycles meanwhile is megabytes.
    gc.set_threshold(100_000, 20, 20)

    from openbook.cli.app import run

    return run(list(sys.argv[1:] if arguments is None else arguments))
