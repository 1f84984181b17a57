"""An answer written to a file of the kind that its ending says: `.md`, `.html`, `.svg`, `.png`, `.txt`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openbook.errors import Fault

SCALE = 2.0
"""Pixels of a PNG to a pixel of the SVG: legible on paper and on sharp screens."""
MEDIA = {
    "md": "text/markdown; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "txt": "text/plain; charset=utf-8",
}


def report(answer: Mapping[str, Any], kind: str) -> bytes:
    """The report of an answer's dict: `kind` is one of `MEDIA`; `Fault` for another, or a PNG without what draws it."""
    if kind == "png":
        return png(answer)
    if kind == "md":
        from openbook.answer.report.markdown import markdown as make
    elif kind == "html":
        from openbook.answer.html import render_html as make
    elif kind == "svg":
        from openbook.answer.report.svg import svg as make
    elif kind == "txt":
        from openbook.answer.report.plain import plain as make
    else:
        raise Fault(f"a report cannot be {kind!r}; it is one of: {', '.join(MEDIA)}")
    return make(answer).encode("utf-8", "replace")


def png(answer: Mapping[str, Any]) -> bytes:
    """The picture of an answer as PNG, on light ground."""
    from openbook.answer.report.svg import svg

    try:
        import vl_convert
    except ImportError as error:
        raise Fault("a PNG needs vl-convert: pip install 'openbook[bench]'; or write an .svg instead") from error
    drawn: bytes = vl_convert.svg_to_png(svg(answer, "light"), scale=SCALE)
    return drawn


def save(answer: Mapping[str, Any], path: str | Path) -> Path:
    """Write an answer's dict as the path's ending says; returns the path. `Fault` for an ending that is none."""
    target = Path(path).expanduser()
    kind = target.suffix.lower().removeprefix(".")
    if kind not in MEDIA:
        raise Fault(f"{target} has no ending that says what to write; end it in .{', .'.join(MEDIA)}")
    target.write_bytes(report(answer, kind))
    return target
