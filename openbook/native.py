"""The native kernels, a distribution of its own (kernels/), where they were built."""

from __future__ import annotations

from typing import Any


def kernels() -> Any:
    """The module of the native kernels, or None where it was not built."""
    try:
        import openbook_kernels
    except ImportError:
        return None
    return openbook_kernels
