"""What contestants read: tokens and passages of one text, the same for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.book.embedder import TokenCounter
    from openbook.lm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Material:
    """A text as a model's tokens. Without a file it is the help that comes with Python."""

    tokenizer: Tokenizer
    file: Path | None = None

    @property
    def name(self) -> str:
        """The text's name, for a report."""
        return self.file.name if self.file else "Python's own help"

    @cached_property
    def text(self) -> str:
        """All of it."""
        if self.file is None:
            from pydoc_data.topics import topics

            return "\n\n".join(topics[name] for name in sorted(topics))
        try:
            return self.file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise Fault(f"{self.file} cannot be read: {error.strerror}; give --text a text file") from error

    @cached_property
    def tokens(self) -> list[int]:
        """Token ids of the whole text."""
        return self.tokenizer.encode(self.text)

    def prompts(self, count: int, length: int) -> list[list[int]]:
        """`count` pieces of `length` tokens, one behind the other."""
        self._enough(count * length)
        return [self.tokens[i * length : (i + 1) * length] for i in range(count)]

    def beginning(self, most: int, least: int) -> list[int]:
        """Its first `most` tokens, or all of fewer."""
        self._enough(least)
        return self.tokens[:most]

    def passages(self, count: int, counter: TokenCounter) -> list[str]:
        """The first `count` passages as `openbook add` cuts and embeds them."""
        from openbook.book.documents import parse
        from openbook.book.passages import in_place, split

        document = parse(self.text.encode(), Path("text.txt"))
        texts = [in_place(document.title, piece.heading, piece.text) for piece in split(document, counter)]
        if len(texts) < count:
            raise Fault(f"{self.name} gives {len(texts)} passages, the race needs {count}; give --text a longer file")
        return texts[:count]

    def _enough(self, count: int) -> None:
        if len(self.tokens) < count:
            raise Fault(f"{self.name} has {len(self.tokens)} tokens, the race needs {count}; give --text a longer file")


def agreement(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with in common."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
