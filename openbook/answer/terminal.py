"""An answer in the terminal: `show` prints a finished one, `Stream` prints one while it is written.

The same colours as the page. Where the output is no terminal, or NO_COLOR is set, it is plain text with [1] for a
citation and [[ ]] around a cited place. Nothing of an answer reaches the terminal but through `rich.text.Text` after
`clean`: it can hold neither markup nor escape sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.style import Style
from rich.text import Text

from openbook.answer import palette
from openbook.answer.page.figures import percent, signed, superscript, weights
from openbook.answer.page.pieces import Citation, Piece, goes_on, inked_word
from openbook.answer.page.reading import Judged, Reading, owner, read
from openbook.answer.page.sources import Mark, Source
from openbook.answer.page.values import clean, number

CAVEAT = (
    "A colour says which source made the model write a word. Whether the passage supports the claim is for you to read."
)
BROADEST = 100
"""Columns of text a line has at most: longer lines are hard to read."""
AROUND = 160
"""Characters of a passage shown on either side of a cited place."""
SAID = 48
"""Columns of the answer repeated where its text stands above without signs."""
DOUBTED = Style(color=palette.HUES[6].either, reverse=True)
VERDICTS = {"yes": Style(color=palette.HUES[2].either), "partly": Style(color=palette.HUES[1].either)}
VERDICTS["no"] = Style(color=palette.HUES[6].either, bold=True)
STRONG = 3
"""The level of ink from which a word is underlined as well as coloured."""


def show(answer: Mapping[str, Any], console: Console) -> None:
    """Prints the answer's dict: question, answer, a bar a source, the cited passages, caveat and facts."""
    reading = read(answer)
    if reading.question:
        _print(console, Text(reading.question, "dim"))
    if reading.abstained:
        _print(console, _not_answered(reading))
    if reading.draft:
        _print(console, _inked(reading, console))
    for judged in reading.judged:
        _verdict(judged, console)
    _rest(reading, console)


def _inked(reading: Reading, console: Console) -> Text:
    """The answer's text in its ink, with its signs; what nothing carries is reversed in colour, or stands in braces."""
    plain, text = is_plain(console), Text()
    open_ = False  # braces: a word of several tokens is one doubt
    for piece in reading.pieces:
        if plain and open_ and not (piece.doubted and not piece.lead):
            text.append("}}")
            open_ = False
        text.append(piece.lead)
        if plain and piece.doubted and not open_:
            text.append("{{")
            open_ = True
        text.append(piece.word, DOUBTED if piece.doubted and not plain else _ink(piece, plain))
        text.append(_signs(piece.citations, console))
    return text.append("}}" if open_ else "")


def _verdict(judged: Judged, console: Console) -> None:
    """What the book says of one sentence, in one or two lines."""
    width, plain = _width(console), is_plain(console)
    line = Text(f"{judged.verdict:<17}", Style() if plain else VERDICTS.get(judged.kind, Style(dim=True)))
    said = Text(" ".join(judged.text.split()), "dim")
    said.truncate(width - 17 - 4, overflow="ellipsis")
    line.append(said)
    if judged.source is not None and judged.source.number is not None:
        sign = f" [{judged.source.number}]" if plain else superscript(judged.source.number)
        line.append(sign, Style() if plain else _colour(judged.source))
    _print(console, line, after=False)
    if judged.unsupported:
        _print(console, Text("nothing carries: " + "; ".join(judged.unsupported)), indent=17, after=False)
    console.print()


class Stream:
    """Prints tokens as they come, then the rest.

    `sources` (dicts with `id` and `kind`, in the answer's order) gives each its colour; without it the order of the
    first token's responsibilities does, with the id `closed` as the model's own memory. Close with `finish`.
    """

    def __init__(self, console: Console, sources: Sequence[Mapping[str, Any]] = ()) -> None:
        self._console = console
        self._sources = read({"sources": list(sources)}).sources
        self._waiting = 0.0  # bits of the parts of a character that is not complete yet
        self._open: list[Piece] = []  # a word whose end is not known yet: it has one ink
        self._before = 0  # the ink of the word before
        self._word: list[tuple[str, Style]] = []  # a word near the margin, held until its end is known
        self._column = 0
        self._gap = ""  # white space not printed yet: a line break may stand for it

    def token(self, text: str, responsibility: Mapping[str, float], bits: float | None) -> None:
        """Prints what is sure with one token more: a word waits for its end, it has one ink. An empty text is a part of
        a character: its bits count for the token that completes it."""
        if not self._sources:
            rows = [{"id": key, "kind": "closed_book" if key == "closed" else "passage"} for key in responsibility]
            self._sources = read({"sources": rows}).sources
        self._waiting += number(bits) or 0.0
        if not text:
            return
        piece = Piece(clean(text), bits=self._waiting, source=owner(responsibility, self._sources))
        self._waiting = 0.0
        if self._open and not goes_on(self._open[-1], piece):
            self._close()
        self._open.append(piece)

    def finish(self, answer: Mapping[str, Any]) -> None:
        """Ends the text and prints what `show` prints under it; `answer` is the finished answer's dict."""
        self._close()
        self._flush()
        self._console.print("\n" if self._column else "")
        reading = read(answer)
        if reading.abstained:
            _print(self._console, _not_answered(reading, above=True))
        _rest(reading, self._console, quote=True)

    def _close(self) -> None:
        """The word is whole."""
        word = inked_word(self._open, self._before) if self._open else []
        for piece in word:
            self._before = piece.level
            for part in _breakable(piece.text):
                self._take(part, _ink(piece, is_plain(self._console)))
        self._open.clear()

    def _take(self, part: str, style: Style) -> None:
        """Prints a part, or holds it while the word it belongs to might not fit on the line."""
        if part.isspace():
            self._flush()
            self._space(part)
        elif cell_len(part[0]) == 2:
            self._flush()
            self._word.append((part, style))
            self._flush()
        else:
            self._word.append((part, style))
            if self._column + len(self._gap) + self._held < self._width - 16 or self._held > self._width:
                self._flush()

    @property
    def _width(self) -> int:
        return min(self._console.width, BROADEST)

    @property
    def _held(self) -> int:
        return sum(cell_len(part) for part, _ in self._word)

    def _flush(self) -> None:
        if not self._word:
            return
        if self._column + len(self._gap) + self._held > self._width and self._column:
            self._space("\n")
        elif self._gap:
            self._write(self._gap, Style())
            self._gap = ""
        for part, style in self._word:
            self._write(part, style)
        self._word.clear()

    def _space(self, text: str) -> None:
        """White space between words: lines at once, blanks with the next word if that is on the same line."""
        if "\n" in text:
            self._console.print(Text("\n" * text.count("\n")), end="", soft_wrap=True)
            self._gap, self._column = "", 0
        elif self._column:
            self._gap += " " * len(text)

    def _write(self, text: str, style: Style) -> None:
        """Prints at the column reached; a word longer than a line breaks at the margin."""
        lines = chop_cells(" " * self._column + text, self._width)
        self._column = cell_len(lines[-1])
        whole = "\n".join(lines)
        self._console.print(Text(whole[len(whole) - len(text) - len(lines) + 1 :], style), end="", soft_wrap=True)


def is_plain(console: Console) -> bool:
    """Whether what is said by colour and raised numbers must be said in characters."""
    return console.color_system is None or console.no_color or not console.is_terminal or console.options.ascii_only


def _breakable(text: str) -> Iterator[str]:
    """The text cut where a line may break: at white space, and around wide characters, which need none."""
    run = ""
    for character in text:
        alone = character.isspace() or cell_len(character) == 2
        if run and (alone or run.isspace()):
            yield run
            run = ""
        if alone:
            yield character
        else:
            run += character
    if run:
        yield run


def _colour(source: Source | None) -> Style:
    return Style(color=palette.hue(source.hue if source else None).either)


def _ink(piece: Piece, plain: bool) -> Style:
    if plain or not piece.level:
        return Style()
    return _colour(piece.source) + Style(underline=piece.level >= STRONG)


def _signs(citations: Sequence[Citation], console: Console) -> Text:
    """The numbers of the cited sources: ¹ in the source's colour, or [1]."""
    if is_plain(console):
        return Text("".join(f"[{citation.source.number}]" for citation in citations))
    signs = Text()
    for citation in citations:
        signs.append("·" if signs else "", "dim")
        signs.append(superscript(citation.source.number or 0), _colour(citation.source))
    return signs


def _not_answered(reading: Reading, above: bool = False) -> Text:
    """Why nothing was answered. A text there is all the same stands `above`, or is to be printed under this."""
    said = Text("Not answered: ", "bold").append(
        reading.reason or "nothing in the book answers this.", Style(bold=False)
    )
    if not reading.draft:
        return said
    return said.append("\nAbove: what the model wrote." if above else "\nWhat the model would have written:", "dim")


def _rest(reading: Reading, console: Console, quote: bool = False) -> None:
    """What stands under the text: sources, cited passages, caveat, facts. `quote` repeats what each citation is for."""
    for other in reading.others:
        _print(console, Text("or: ", "dim").append(_inked(other, console)))
    for source in reading.sources:
        for line in _lines_of(source, reading.share(source), console):
            line.rstrip()
            console.print(line, soft_wrap=True)
    if reading.sources:
        console.print()
    cited = [source for source in reading.sources if source.cited or (source.passage and source.key == "knn")]
    nearest = [source for source in reading.sources if source.passage][: 1 if reading.abstained else 0]
    for source in cited or nearest:
        _passage(source, reading, console, quote)
    if reading.certified:
        _print(console, Text(reading.certified))
    if reading.sources:
        _print(console, Text(CAVEAT, "dim"))
    facts = [
        value if label == "timings" else f"{label} {value}" for label, value in reading.facts if label != "settings"
    ]
    _print(console, Text(" · ".join(facts), "dim"), after=False)


def _lines_of(source: Source, share: float | None, console: Console) -> Iterator[Text]:
    """Two lines: number, document and place, share and bits; under them the bar and the weights."""
    width, plain = _width(console), is_plain(console)
    bits = "" if source.bits is None else f"{signed(source.bits)} bits"
    figures = f" {percent(share):>5}{bits:>13}"
    yield _numbered(source, plain).append(_named(source, width - 4 - len(figures))).append(figures)
    told = weights(source.prior, source.refined)
    bar = _bar(share or 0.0, width - 4 - 2 - 19, console)
    yield Text("    ").append(bar, Style() if plain else _colour(source)).append(f"  {told:>19}", "dim")
    for name, drop in source.members:
        if drop is not None:
            line = Text(f"    without {name}: log p {signed(-drop)}", "dim")
            line.truncate(width, overflow="ellipsis")
            yield line


def _numbered(source: Source, plain: bool) -> Text:
    """The first four columns of a source's lines."""
    return Text().append(f"{source.number or '·':>2}  ", Style() if plain else _colour(source) + Style(bold=True))


def _bar(share: float, length: int, console: Console) -> str:
    """A bar of so many columns, to half of one; `#` where the terminal has no such characters."""
    halves = round(2 * length * min(max(share, 0.0), 1.0))
    whole, half = ("#", "") if console.options.ascii_only else ("▀", "▘")
    return (whole * (halves // 2) + half * (halves % 2)).ljust(length)


def _named(source: Source, room: int) -> Text:
    """Document and place in exactly `room` columns; a long path loses its beginning, which says least."""
    place = f", {source.place}" if source.place else ""
    name = " ".join(source.name.split())
    spare = room - cell_len(place)
    if cell_len(name) > spare:
        while name and cell_len(name) > spare - 1:
            name = name[1:]
        name = "…" + name
    text = Text(name).append(place, "dim")
    text.pad_right(max(0, room - text.cell_len))
    return text


def _passage(source: Source, reading: Reading, console: Console, quote: bool) -> None:
    """The cited places of a passage with some words around each."""
    plain = is_plain(console)
    colour = Style() if plain else _colour(source)
    head = _numbered(source, plain)
    head.append(_named(source, _width(console) - 4))
    head.rstrip()
    console.print(head)
    if quote:
        for said in _said(source, reading):
            _print(console, Text(f"for “{said}”", "dim"), indent=4, after=False)
    body = Text()
    cited = False
    for i, mark in enumerate(source.passage):
        if plain and cited != bool(mark.citations):  # places of several citations that touch are one place here
            body.append("]]" if cited else "[[")
        cited = bool(mark.citations)
        if cited:
            body.append(mark.text, colour + Style(underline=not plain))
        else:
            body.append(_trimmed(mark, first=i == 0, last=i == len(source.passage) - 1), "dim")
    if plain and cited:
        body.append("]]")
    _print(console, body, indent=4)


def _said(source: Source, reading: Reading) -> Iterator[str]:
    """The words of the answer that lead up to each of the source's signs, shortened at the front."""
    text = ""
    for piece in reading.pieces:
        text += piece.text
        if any(citation.source is source for citation in piece.citations):
            said = " ".join(text.split())
            end = said
            while cell_len(end) > SAID:
                end = end[1:]
            yield said if said == end else "…" + end[end.find(" ") + 1 :]


def _trimmed(mark: Mark, first: bool, last: bool) -> str:
    """Text between cited places, cut to what stands near them, at white space where there is some."""
    text = mark.text
    near_start, near_end = not first or last, not last  # a passage nothing cites is shown from its beginning
    if len(text) <= AROUND * (near_start + near_end) + 20:
        return text
    head, tail = text[:AROUND], text[-AROUND:]
    head = head.rsplit(None, 1)[0] if " " in head else head
    tail = tail.split(None, 1)[-1] if " " in tail else tail
    return (head + " …" if near_start else "…") + ((" " if near_start else "") + tail if near_end else "")


def _width(console: Console) -> int:
    return min(console.width, BROADEST)


def _print(console: Console, text: Text, indent: int = 0, after: bool = True) -> None:
    """Prints wrapped text without trailing spaces, and an empty line after it."""
    for line in text.wrap(console, max(8, _width(console) - indent)):
        indented = Text(" " * indent).append(line)
        indented.rstrip()
        console.print(indented, soft_wrap=True)
    if after:
        console.print()
