"""Where openbook keeps what it fetched or made for itself: models, books made for a folder."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The cache folder: `OPENBOOK_HOME`, else `$XDG_CACHE_HOME/openbook`, else `~/.cache/openbook`. Not created."""
    if chosen := os.environ.get("OPENBOOK_HOME"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "openbook"
