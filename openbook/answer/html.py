"""An answer as one page that needs nothing else: `render_html`, `save_html`.

The text, the sources and their passages are written here, escaped, and readable without the script; the script adds
what moves. No text of an answer can become markup: Jinja escapes all of it, ids and classes are counters, the data
stands as JSON in which no character can end the script, and the page's policy allows this style and this script by
their hashes and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openbook.answer import palette
from openbook.answer.page import figures
from openbook.answer.page.reading import read

if TYPE_CHECKING:
    from jinja2 import Template

# What could end a script element, start a comment in one, end a line of JavaScript, or not be written as UTF-8.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")

LONG, VERY_LONG = 220, 700
"""Characters of text from which an answer is set smaller."""


def render_html(answer: Mapping[str, Any]) -> str:
    """The page of an answer's dict (`Answer.to_dict()`): one self-contained document, to be written as UTF-8."""
    reading = read(answer)
    style = palette.stylesheet() + _part("page.css")
    script = _part("page.js")
    length = len(reading.text)
    return _template().render(
        r=reading,
        size="short" if length < LONG else "long" if length < VERY_LONG else "very-long",
        policy=policy_of(style, script),
        style=markup(style),
        script=markup(script),
        data=markup(embedded_json(answer)),
    )


def save_html(answer: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of an answer's dict; returns its path."""
    target = Path(path).expanduser()
    target.write_text(render_html(answer), encoding="utf-8")
    return target


def embedded_json(value: object) -> str:
    """JSON that may stand in a script element; reads back as the same value, but that NaN and infinities are null."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _finite(value: object) -> object:
    """The same value with what JSON has no word for (a necessity may be infinite) as null."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def policy_of(style: str, script: str) -> str:
    """The policy of a page that has this style and this script, and nothing from anywhere else."""
    return (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _part(name: str) -> str:
    return files("openbook.answer.page").joinpath(name).read_text(encoding="utf-8")


def markup(trusted: str) -> str:
    """Marks our own style, our own script and JSON made safe above as what the template may write unescaped."""
    from markupsafe import Markup

    return Markup(trusted)  # noqa: S704


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters.update(
        hue_class=palette.hue_class, percent=figures.percent, signed=figures.signed, weights=figures.weights
    )
    return environment.from_string(_part("page.html"))
