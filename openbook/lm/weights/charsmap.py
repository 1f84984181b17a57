"""Checking the character map of a SentencePiece model, which the tokenizers library believes without looking.

The map is the bytes of a double array (Aoe 1989, in the layout of darts-clone) from spellings to places in a text of
replacements. The library follows it without bounds, and a place outside ends the process's thread of Rust; so every
step that a text could take is checked here once.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

import numpy as np

from openbook.errors import Fault


def check_charsmap(blob: bytes, where: str) -> None:
    """Raise `Fault` if a text could lead outside the map: 4 bytes of length, so many bytes of units, then UTF-8."""
    size = int.from_bytes(blob[:4], "little")
    if not size or size % 4 or 4 + size > len(blob):
        raise Fault(f"{where}: its character map is cut short or no character map; download it again")
    units = np.frombuffer(blob, "<u4", size // 4, 4).astype(np.int64)
    replacements = np.frombuffer(blob[4 + size :] + b"\0", np.uint8)
    inner = np.flatnonzero(units >> 31 == 0)
    base = inner ^ ((units[inner] >> 10) << ((units[inner] & 512) >> 6))  # where the steps from a unit begin
    ends = base[(units[inner] >> 8) & 1 == 1]
    good = not ((base | 255) >= len(units)).any()
    if good:
        place = units[ends] & 0x7FFFFFFF
        good = not (place >= len(replacements)).any() and not (replacements[place] & 0xC0 == 0x80).any()
    try:
        blob[4 + size :].decode()
    except UnicodeDecodeError:
        good = False
    if not good:
        raise Fault(f"{where}: its character map leads outside itself; download it again")


def check_charsmaps(normalizer: Any, where: str) -> None:
    """`check_charsmap` of every `Precompiled` step within a normalizer of a tokenizer.json."""
    for step in _steps(normalizer):
        try:
            blob = base64.b64decode(step.get("precompiled_charsmap") or "", validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            raise Fault(f"{where}: its character map is not base64") from error
        check_charsmap(blob, where)


def _steps(normalizer: Any) -> Iterator[dict[str, Any]]:
    rest = [normalizer]
    while rest:
        step = rest.pop()
        if isinstance(step, dict):
            if step.get("type") == "Precompiled":
                yield step
            rest += step["normalizers"] if isinstance(step.get("normalizers"), list) else []
