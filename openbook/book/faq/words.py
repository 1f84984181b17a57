"""What the lexical side of a question matches by: words with their endings taken off, and parts of words.

No language is asked for. Where words are written without spaces (Chinese, Japanese) their characters, alone and in
twos, stand in for them (Nie 2000 found these as good as segmented words). Parts of words forgive what is mistyped.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

MAX_CHARS = 4_000
"""Characters of one field that are read for matching: a question has far fewer, and an answer's point comes early."""

_RUN = re.compile(
    r"[\u2e80-\u2fff\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+"
    r"|[^\W_\u2e80-\u2fff\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_UNSPACED = re.compile(r"[\u2e80-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
_APOSTROPHE = re.compile(r"(?<=\w)['’]s?\b")
_VOWEL = re.compile(r"[aeiouy]")
_DOUBLED = re.compile(r"([bdfgmnprt])\1$")


def folded(text: str) -> str:
    """A text without case, accents, vowel points and marks of direction; look-alikes of compatibility made one."""
    wide = unicodedata.normalize("NFKD", text[:MAX_CHARS]).casefold()
    kept = "".join(c for c in wide if unicodedata.category(c) not in ("Mn", "Me", "Cf", "Lm"))
    return unicodedata.normalize("NFC", kept)


def words(text: str) -> list[str]:
    """The words of a text in order, stemmed; of unspaced scripts each character and each two that stand together."""
    return [word for run in _runs(text) for word in (_unspaced(run, 2) if _UNSPACED.match(run) else (stem(run),))]


def parts(text: str) -> list[str]:
    """Three and four characters of each word, its ends marked; of unspaced scripts one to three."""
    return [part for run in _runs(text) for part in (_unspaced(run, 3) if _UNSPACED.match(run) else _grams(run))]


def _runs(text: str) -> list[str]:
    return _RUN.findall(_APOSTROPHE.sub("", folded(text)))


def _unspaced(run: str, longest: int) -> Iterator[str]:
    for size in range(1, longest + 1):
        yield from (run[at : at + size] for at in range(len(run) - size + 1))


def _grams(word: str) -> Iterator[str]:
    marked = f"_{word[:64]}_"
    for size in (3, 4):
        yield from (marked[at : at + size] for at in range(len(marked) - size + 1))


def stem(word: str) -> str:
    """An English word without the ending of its plural or its verb: step 1 of Porter (1980), `y` and `e` taken off."""
    if len(word) < 4 or not word.isascii():
        return word
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-3] + "y" if word.endswith("ies") and len(word) > 4 else word[:-1]
    for ending in ("ing", "ed"):
        root = word.removesuffix(ending)
        if root != word and len(root) > 2 and _VOWEL.search(root):
            word = root[:-1] if _DOUBLED.search(root) else root
            break
    return re.sub(r"(?<=..)(?:e|y|ie)$", "", word)
