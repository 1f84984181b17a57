"""An answer's evidence as a picture: the words in their ink, the strip, and who is who. SVG, written here.

It needs no script and no font of its own: each word is given its place and its length, so that lines and underlines
meet whatever face there is. Drawn on light and on dark ground (`prefers-color-scheme`), or for one of them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from openbook.answer import palette
from openbook.answer.page.figures import percent, signed
from openbook.answer.page.pieces import Piece
from openbook.answer.page.reading import Reading, read
from openbook.answer.page.sources import Source
from openbook.answer.page.values import clean
from openbook.answer.report.columns import Column, columns
from openbook.answer.report.widths import width

Theme = Literal["auto", "light", "dark"]
WIDTH, EDGE, SIZE, SMALL, LEADING = 960.0, 32.0, 22.0, 14.0, 1.55
STRIP, GAP, MOST_WIDE, LEAST_WIDE = 56.0, 1.0, 26.0, 5.0
MOST_TEXT, MOST_SOURCES = 20_000, 40
"""Characters of an answer, and sources, that are drawn: a picture is looked at as a whole."""
_LIGHT = {"ink": "#1b1d21", "soft": "#555c66", "faint": "#69707a", "paper": "#ffffff", "wash": "#f1f3f5"}
_DARK = {"ink": "#eceef1", "soft": "#b0b7c1", "faint": "#939ba6", "paper": "#15171b", "wash": "#22262b"}
_FONT = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', 'Noto Sans', 'Noto Sans CJK SC', sans-serif"


def svg(answer: Mapping[str, Any], theme: Theme = "auto") -> str:
    """The picture of an answer's dict, as a whole SVG document."""
    reading = read(answer)
    page = _Page()
    page.text(_cut(reading.question, 600), SMALL + 1, "soft")
    page.gap(8)
    if reading.abstained:
        page.text(
            "Not answered: " + _cut(reading.reason or "nothing in the book has to do with it", 1_200), SIZE * 0.8, "ink"
        )
        page.gap(18)
    if reading.draft:
        page.answer(reading)
        page.gap(18)
        page.strip(columns(answer, reading), reading)
        page.gap(26)
    page.legend(reading)
    return page.document(theme, _alt(reading))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _alt(reading: Reading) -> str:
    who = "; ".join(f"{s.name} {percent(reading.share(s))}" for s in reading.sources[:8])
    return f"{_cut(reading.text or reading.reason, 1_000)} (evidence: {who})"


def escaped(text: str) -> str:
    """Text as XML, without what XML cannot say."""
    plain = clean(text).replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd").replace("\t", " ").replace("\n", " ")
    return html.escape(plain)


@dataclass(frozen=True)
class _Word:
    """A stretch without a break: its text, the piece it is from, and the citations after it."""

    text: str
    piece: Piece | None
    signs: tuple[Source, ...] = ()


class _Page:
    """Elements from top to bottom; `y` is where the next one begins."""

    def __init__(self) -> None:
        self.y = EDGE
        self.parts: list[str] = []

    def gap(self, height: float) -> None:
        self.y += height

    def text(self, text: str, size: float, ink: str) -> None:
        """Text that is broken into lines."""
        line, room = "", (WIDTH - 2 * EDGE) / size
        for word in [w for raw in text.split() for w in _broken(raw, room)]:
            if line and width(f"{line} {word}") > room:
                self._line(line, size, ink)
                line = ""
            line = f"{line} {word}" if line else word
        if line:
            self._line(line, size, ink)

    def _line(self, line: str, size: float, ink: str) -> None:
        self.parts.append(_text(EDGE, self.y + size, line, size, ink, size * width(line)))
        self.y += size * 1.45

    def answer(self, reading: Reading) -> None:
        """The answer's words, underlined as strongly as the book added them, in the colour of who carried them."""
        x, room = EDGE, WIDTH - EDGE
        for words in _words(reading):
            wide = sum(
                SIZE * width(w.text) + SMALL * 0.62 * width("".join(str(s.number) for s in w.signs)) for w in words
            )
            if words[0].text == "\n" or (x > EDGE and x + wide > room):
                x, self.y = EDGE, self.y + SIZE * LEADING
            if words[0].text == "\n":
                continue
            for i, word in enumerate(words):
                text = word.text.lstrip() if x == EDGE and i == 0 else word.text
                x = self._word(x, text, word)
        self.y += SIZE * LEADING

    def _word(self, x: float, text: str, word: _Word) -> float:
        lead = SIZE * width(text[: len(text) - len(text.lstrip())])
        body = text.strip()
        wide, base = SIZE * width(body), self.y + SIZE
        if body:
            self.parts.append(_text(x + lead, base, body, SIZE, "ink", wide))
        piece = word.piece
        if body and piece is not None and piece.source is not None and piece.level:
            strength = f'stroke-width="{0.8 + 0.5 * piece.level:.1f}" stroke-opacity="{0.3 + 0.14 * piece.level:.2f}"'
            dash = ' stroke-dasharray="4 3"' if (piece.source.hue or 0) >= len(palette.HUES) else ""
            line = f'x1="{x + lead:.1f}" x2="{x + lead + wide:.1f}" y1="{base + 5:.1f}" y2="{base + 5:.1f}"'
            self.parts.append(f'<line class="{_hue(piece.source)}" {line} {strength}{dash}/>')
        x += lead + wide
        for source in word.signs:
            number = str(source.number)
            self.parts.append(_text(x + 1, base - SIZE * 0.38, number, SMALL * 0.8, f"{_hue(source)} text"))
            x += SMALL * 0.8 * width(number) + 2
        return x

    def strip(self, drawn: list[Column], reading: Reading) -> None:
        """A column a token, in as many rows as they need."""
        if not drawn:
            return
        room = WIDTH - 2 * EDGE
        wide = min(MOST_WIDE, max(LEAST_WIDE, room / len(drawn)))
        rows = math.ceil(len(drawn) * wide / room - 1e-6)
        a_row = math.ceil(len(drawn) / rows)
        sources = {source.index: source for source in reading.sources}
        for start in range(0, len(drawn), a_row):
            for i, column in enumerate(drawn[start : start + a_row]):
                self._column(EDGE + i * wide, wide - GAP, column, sources)
            self.y += STRIP + 7
        told = "a column a token: its height what the book added, its colours who carried it"
        if reading.bits is not None:
            told = f"{signed(reading.bits)} bits from the book · {told}"
        self.parts.append(_text(EDGE, self.y + SMALL, told, SMALL - 1, "faint"))
        self.y += SMALL

    def _column(self, x: float, wide: float, column: Column, sources: Mapping[int, Source]) -> None:
        at = self.y + STRIP
        body = [_rect(x, self.y, wide, STRIP, "wash")]
        for index, share in column.shares:
            high = STRIP * column.height * share
            at -= high
            body.append(_rect(x, at, wide, high, _hue(sources[index])))
        self.parts.append(f"<g><title>{escaped(column.told)}</title>{''.join(body)}</g>")

    def legend(self, reading: Reading) -> None:
        """Every source: its number and colour, its name and place, its share as a bar, its bits."""
        for source in reading.sources[:MOST_SOURCES]:
            share, base = reading.share(source), self.y + SMALL
            self.parts.append(_rect(EDGE, base - SMALL * 0.8, SMALL * 0.8, SMALL * 0.8, _hue(source)))
            number = "" if source.number is None else str(source.number)
            self.parts.append(_text(EDGE + 20, base, number, SMALL, f"{_hue(source)} text"))
            room = (WIDTH - 2 * EDGE - 360) / SMALL
            named = _shortened(f"{source.name}{', ' if source.place else ''}{source.place}", room)
            self.parts.append(_text(EDGE + 44, base, named, SMALL, "ink", SMALL * width(named)))
            left = WIDTH - EDGE - 290
            self.parts.append(_rect(left, base - 8, 120, 6, "wash"))
            self.parts.append(_rect(left, base - 8, 120 * min(max(share or 0.0, 0.0), 1.0), 6, _hue(source)))
            told = f"{percent(share)}" + (f"  ·  {signed(source.bits)} bits" if source.bits is not None else "")
            self.parts.append(_text(left + 136, base, told, SMALL, "soft"))
            self.y += SMALL * 1.75
        if len(reading.sources) > MOST_SOURCES:
            self.text(f"and {len(reading.sources) - MOST_SOURCES} more sources", SMALL, "faint")

    def document(self, theme: Theme, alt: str) -> str:
        high = self.y + EDGE / 2
        face = f'role="img" class="openbook-evidence" font-family="{_FONT}"'
        size = f'viewBox="0 0 {WIDTH:.0f} {high:.0f}" width="{WIDTH:.0f}" height="{high:.0f}"'
        ground = _rect(0, 0, WIDTH, high, "paper")
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {face}>'
            f"<title>{escaped(alt)}</title><style>{_style(theme)}</style>{ground}{''.join(self.parts)}</svg>\n"
        )


def _words(reading: Reading) -> Iterator[list[_Word]]:
    """What is not torn apart at a line's end: from one white space to the next; a line break stands alone."""
    whole: list[_Word] = []
    left = MOST_TEXT
    for piece in reading.pieces:
        text = piece.text[:left]
        left -= len(text)
        cut = [part for part in _split(text) if part]
        for i, part in enumerate(cut):
            signs = tuple(c.source for c in piece.citations) if i == len(cut) - 1 else ()
            if whole and (part[0].isspace() or whole[-1].text == "\n"):
                yield whole
                whole = []
            whole.append(_Word("\n" if part == "\n" else part, piece, signs))
        if not cut and piece.citations and whole:
            whole[-1] = _Word(whole[-1].text, whole[-1].piece, tuple(c.source for c in piece.citations))
        if left <= 0:
            whole.append(_Word(" …", None))
            break
    if whole:
        yield whole


def _split(text: str) -> Iterator[str]:
    """Words with the space before them; line breaks; what is too long for a line in parts."""
    for number, line in enumerate(text.split("\n")):
        if number:
            yield "\n"
        start = 0
        for at in range(1, len(line) + 1):
            if at == len(line) or (line[at].isspace() and not line[at - 1].isspace()):
                yield from _broken(line[start:at], (WIDTH - 2 * EDGE) / SIZE - 2)
                start = at


def _broken(word: str, room: float) -> Iterator[str]:
    """A word that is longer than a line, in parts that are not."""
    start, wide = 0, 0.0
    for at, character in enumerate(word):
        one = width(character)
        if wide + one > room and at > start:
            yield word[start:at]
            start, wide = at, 0.0
        wide += one
    yield word[start:]


def _shortened(text: str, room: float) -> str:
    text = " ".join(text.split())[:500]
    if width(text) <= room:
        return text
    while text and width(text) > room - 1:
        text = text[:-1]
    return text + "…"


def _hue(source: Source) -> str:
    return palette.hue_class(source.hue).split()[0]


def _text(x: float, y: float, text: str, size: float, ink: str, length: float | None = None) -> str:
    exact = "" if length is None or length <= 0 else f' textLength="{length:.1f}" lengthAdjust="spacingAndGlyphs"'
    return f'<text class="{ink}" x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}"{exact}>{escaped(text)}</text>'


def _rect(x: float, y: float, wide: float, high: float, ink: str) -> str:
    return f'<rect class="{ink}" x="{x:.2f}" y="{y:.2f}" width="{wide:.2f}" height="{high:.2f}"/>'


def _style(theme: Theme) -> str:
    """Our own colours alone; every rule names the picture, so that it styles nothing else of a page it stands in."""
    if theme != "auto":
        return "".join(_rules(_DARK if theme == "dark" else _LIGHT, theme))
    dark = "".join(_rules(_DARK, "dark"))
    return "".join(_rules(_LIGHT, "light")) + f"@media (prefers-color-scheme: dark) {{ {dark} }}"


def _rules(inks: Mapping[str, str], theme: str) -> Iterator[str]:
    root = ".openbook-evidence"
    for name, colour in inks.items():
        yield f"{root} .{name} {{ fill: {colour} }}"
    for name, hue in [*((f"s{i}", colour) for i, colour in enumerate(palette.HUES, 1)), ("own", palette.OWN)]:
        line, text = (hue.dark, hue.dark) if theme == "dark" else (hue.light, hue.text)
        yield f"{root} .{name} {{ fill: {line} }} {root} line.{name} {{ stroke: {line} }}"
        yield f"{root} text.{name} {{ fill: {text} }}"
