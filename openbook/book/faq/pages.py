"""Pages of pairs: Markdown, plain text and HTML. Questions are found by their form.

A question is what is marked so (`Q:`, `<summary>`, `<dt>`, a question of schema.org), or a heading or a bold line that
asks something; its answer goes on to the next question, or to a heading of no lower rank. An HTML page is first
written as the lines of Markdown that say the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from openbook.book.documents import Heading, Unreadable
from openbook.book.faq.forms import form, of_json, placed
from openbook.book.faq.pairs import Draft, Problem
from openbook.book.readers.html import check_depth, walk
from openbook.book.readers.markdown import lines_of, markdown_headings

LONGEST = 300
"""Characters a question in a page may have: what is longer is text that happens to end in a question mark."""

_OPEN = re.compile(
    r"^\W{0,4}(?:Q|Question|问题?|問題?|提问)\W{0,2}\d{0,4}\W{0,2}[:：]\W{0,3}(?P<text>.*)$", re.IGNORECASE
)
_REPLY = re.compile(r"^\W{0,4}(?:A|Answer|答案?|回答)\W{0,2}\d{0,4}\W{0,2}[:：]\s*\**\s*(?P<text>.*)$", re.IGNORECASE)
_SUMMARY = re.compile(r"<summary[^>]{0,200}>(.*?)</summary>", re.IGNORECASE)
_TAGS = re.compile(r"</?[a-zA-Z][^>]{0,200}>")
_DETAILS = re.compile(r"</?details[^>]{0,200}>", re.IGNORECASE)
_BOLD = re.compile(r"^\s*(?:[-*+]\s+|\d{1,3}[.)]\s+)?(\*\*|__)(?P<text>[^*_].{1,300}?)\1:?\s*$")
_MARK = re.compile(r"[?？؟;︖][\"'”’»）)\]*_]*\s*$")
_ASKS = re.compile(
    r"^(?:how|what|why|when|where|who|whom|whose|which|can|could|do|does|did|is|are|am|was|were|may|might|must|should|"
    r"shall|will|would|has|have)\b(?:[^\w.!:]+\w+){2,}[^.!:]*$",
    re.IGNORECASE,
)
_ASKS_CHINESE = re.compile(r"(?:怎么|怎样|如何|为什么|为何|什么|哪些|哪里|哪个|多少|是否|能否|可否|吗|呢)")
_NUMBERED = re.compile(r"^\s*(?:\d{1,3}(?:\.\d{1,3}){0,3}[.)]?|[-*+])\s+")


def is_question(text: str) -> bool:
    """Whether a heading or a line asks something, by its form."""
    text = _NUMBERED.sub("", text.strip())
    if not text or len(text) > LONGEST:
        return False
    chinese = len(text) <= 60 and not text.endswith(("。", "！", "：", ":")) and _ASKS_CHINESE.search(text)
    return bool(_MARK.search(text) and not text.endswith(";")) or bool(_ASKS.match(text)) or bool(chinese)


@dataclass
class _Open:
    """A question whose answer is being collected. Rank: a heading's level, 7 of a marked question, 8 of a bold one."""

    questions: list[str]
    line: int
    rank: int
    answering: bool
    answer: list[str] = field(default_factory=list)

    def draft(self) -> Draft:
        return Draft(tuple(self.questions), "\n".join(self.answer).strip("\n"), self.line)


@form(".md", ".markdown", ".mdx", ".mkd", ".qmd", ".rmd", ".txt", ".text")
def of_markdown(text: str) -> Iterator[Draft | Problem]:
    """Pairs of Markdown or plain text."""
    headings = {heading.start: heading for heading in markdown_headings(lines_of(text))}
    every = not any(is_question(h.text) or h.level == 1 for h in headings.values()) and "faq" in text[:200].lower()
    page, fenced, skipped = _Page(every), False, 0
    for number, (start, line) in enumerate(lines_of(text), 1):
        if start < skipped:
            continue  # the rule under a heading
        if heading := headings.get(start):
            page.heading(heading, number)
            skipped = heading.end
        elif line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
            page.text(line)
        elif fenced or not page.marked(line, number):
            page.text(line)
        yield from page.done()
    page.close()
    yield from page.done()


class _Page:
    """Lines of a page in order, and the pairs they make."""

    def __init__(self, every: bool) -> None:
        self._every = every
        self._open: _Open | None = None
        self._done: list[Draft] = []

    def done(self) -> list[Draft]:
        """The pairs that are whole since the last call."""
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Whatever is open ends here."""
        if self._open is not None:
            if self._open.answering or self._open.rank == 7:
                self._done.append(self._open.draft())
            self._open = None

    def heading(self, heading: Heading, number: int) -> None:
        if self._every or is_question(heading.text):
            self.ask(heading.text, number, heading.level)
        elif self._open is None or heading.level <= self._open.rank:
            self.close()
        else:
            self.text(heading.text)

    def ask(self, question: str, number: int, rank: int) -> None:
        self.close()
        question = _NUMBERED.sub("", _TAGS.sub("", question).strip(" *_\t"))
        self._open = _Open([question], number, rank, answering=rank != 7)

    def marked(self, line: str, number: int) -> bool:
        """Take a line that opens or ends something; False where it is text like any other."""
        if len(line) > 4 * LONGEST:
            return False
        if summary := _SUMMARY.search(line):
            self.ask(summary[1], number, 7)
            assert self._open is not None  # noqa: S101
            self._open.answering = True
            if rest := _TAGS.sub("", line[summary.end() :]).strip():
                self.text(rest)
            if "</details" in line.lower():
                self.close()
            return True
        if _DETAILS.search(line):
            if rest := _TAGS.sub("", line).strip():
                self.text(rest)
            if "</details" in line.lower():
                self.close()
            return True
        return self._letters(line, number) or self._bold(line, number)

    def _letters(self, line: str, number: int) -> bool:
        begun = self._open is None or any(line.strip() for line in self._open.answer)
        if not begun and (reply := _REPLY.match(line)) and self._open is not None:
            self._open.answering = True
            self.text(reply["text"])
            return True
        if not (asked := _OPEN.match(line)):
            return False
        if self._open is not None and self._open.rank == 7 and not self._open.answering:
            self._open.questions.append(asked["text"].strip(" *_"))
        else:
            self.ask(asked["text"], number, 7)
        return True

    def _bold(self, line: str, number: int) -> bool:
        found = _BOLD.match(line)
        if found is None or not is_question(found["text"]) or (self._open is not None and self._open.rank == 7):
            return False
        self.ask(found["text"], number, 8)
        return True

    def text(self, line: str) -> None:
        if self._open is None:
            return
        if self._open.answering:
            self._open.answer.append(line)
        elif line.strip():
            self._open.questions[-1] += " " + line.strip()


@form(".html", ".htm", ".xhtml")
def of_html(text: str) -> Iterator[Draft | Problem]:
    """Pairs of a web page: those it tells machines of (schema.org's FAQPage), else those a reader sees. Answers that
    are folded away until somebody clicks are read too."""
    from selectolax.lexbor import LexborHTMLParser

    check_depth(text)
    tree = LexborHTMLParser(text)
    told = [
        one
        for script in tree.css('script[type="application/ld+json"]')
        for one in _told(script.text() or "")
        if one.answer.strip()
    ]
    if told:
        yield from placed(told, text)
    elif tree.body is not None:
        lines = _Lines()
        for step, node in walk(tree.body, _unread):
            lines.take(step, node)
        yield from placed(list(of_markdown(lines.text())), text)


def _told(script: str) -> list[Draft]:
    try:
        found = [one for one in of_json(script) if isinstance(one, Draft)]
    except Unreadable:  # a page's scripts may be anything; what a reader sees is read instead
        return []
    return [Draft(one.questions, _plain(one.answer), 1) for one in found]


def _plain(answer: str) -> str:
    """schema.org's answers may hold HTML."""
    if "<" not in answer:
        return answer
    from selectolax.lexbor import LexborHTMLParser

    tree, lines = LexborHTMLParser(answer[:100_000]), _Lines()
    if tree.body is None:
        return answer
    for step, node in walk(tree.body, _unread):
        lines.take(step, node)
    return lines.text().strip()


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_UNREAD = _words("head script style noscript template nav svg math canvas iframe object select input textarea")
_APART = _words("""
    p div section article main header aside footer h1 h2 h3 h4 h5 h6 ul ol li dl dt dd table tr pre blockquote figure
    details summary form fieldset hr br body html center
""")


def _unread(node: Any) -> bool:
    return node.tag in _UNREAD


class _Lines:
    """A page as lines of Markdown: headings, `Q:` for what is marked as a question, paragraphs."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._words: list[str] = []
        self._prefix = ""
        self._bold = 0

    def take(self, step: str, node: Any) -> None:
        if step == "text":
            self._words.append(node.text_content or "")
            return
        tag = node.tag
        if tag in ("b", "strong"):
            self._bold += 1 if step == "in" else -1
            if step == "in" and not self._prefix and not "".join(self._words).strip():
                self._prefix = "**"
        elif tag in _APART:
            self._flush(tag if step == "out" else "")
            if step == "in":
                heading = len(tag) == 2 and tag[0] == "h" and tag[1] in "123456"
                self._prefix = "#" * int(tag[1]) + " " if heading else "Q: " if tag in ("summary", "dt") else ""
            elif tag in ("details", "dl"):
                self._lines.append("</details>")

    def _flush(self, closed: str) -> None:
        words, prefix = " ".join("".join(self._words).split()), self._prefix
        self._words = []
        if not words:
            return
        self._prefix = ""
        if prefix == "**":
            words = f"**{words}**" if is_question(words) and len(words) <= LONGEST else words
        elif prefix:
            words = prefix + words
        elif words.startswith("#"):
            words = " " * 4 + words
        self._lines.append(words)
        if prefix == "Q: " and closed in ("summary", "dt"):
            self._lines.append("A: ")
        elif closed not in ("li", "tr", "br"):
            self._lines.append("")

    def text(self) -> str:
        self._flush("")
        return "\n".join(self._lines)
