"""Server-sent events (WHATWG HTML, 9.2), each written as one line of data, and comments for who waits."""

from __future__ import annotations

import json
import re
from typing import Any

# What ends a line for somebody: CR and LF for browsers; for clients that split text at Python's lines these too. JSON
# has escaped all below U+0020. A lone surrogate, which no UTF-8 can hold, is an escape in JSON too.
_BREAKS = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_json = json.JSONEncoder(ensure_ascii=False).encode  # `dumps` would make an encoder for every token
LONGEST = 200
"""Characters of a comment."""


def event_of(data: Any, kind: str | None = None) -> str:
    """An event of JSON; one without a kind is a `message`."""
    line = _BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", _json(data))
    return f"data: {line}\n\n" if kind is None else f"event: {kind}\ndata: {line}\n\n"


def comment(told: str) -> str:
    """A line that clients pass over. Names of documents may be in it: it is one line whatever they hold."""
    return f": {_CONTROLS.sub(' ', told)[:LONGEST]}\n\n"
