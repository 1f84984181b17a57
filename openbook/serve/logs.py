"""What the server writes on standard error: never a question, a document's name or text, a key."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path
from types import TracebackType


class Discreet(logging.Formatter):
    """One line a record; of an exception its kind and place, for its message may quote what somebody asked."""

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        frames = traceback.extract_tb(ei[2])
        place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        return f"{ei[0].__name__ if ei[0] else 'error'}{place}"


def configure(requests: bool) -> None:
    """Warnings and errors of the server and of what serves it; with `requests` a line for each request too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Discreet("openbook: %(message)s"))
    levels = {"openbook.serve": logging.INFO if requests else logging.WARNING}
    for name, level in (levels | dict.fromkeys(("uvicorn", "asyncio"), logging.ERROR)).items():
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
