"""Documents split in two: parts that a book may hold, and parts held out to be foretold.

    python bench/held_out.py gutenberg-17/*.txt --to /tmp/gutenberg
    python bench/held_out.py python-docs.jsonl.gz --to /tmp/python-docs --parts 25
    openbook add /tmp/gutenberg/book --book gutenberg.book
    openbook eval lm /tmp/gutenberg/held-out/*.txt --book gutenberg.book --tokens 200

A text is cut at blank lines into `--parts` parts of about one length; part `--hold` (counted from 0) is held out, the
others are joined. So what was held out stands in no passage of the book, but for what the document itself says twice.
A `.jsonl.gz` file holds one `{"path", "text"}` a line; of such documents only those of at least 20 kB are cut, the rest
goes to the book whole.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

LEAST = 20_000
"""Characters below which a part would be too short to foretell."""


def documents(paths: list[Path]) -> Iterator[tuple[str, str]]:
    """Names and texts."""
    for path in paths:
        if path.name.endswith(".jsonl.gz"):
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                for line in lines:
                    row = json.loads(line)
                    name = row["path"].replace("/", "-")
                    yield Path(name).stem + ".txt", row["text"]
        else:
            yield path.name, path.read_text(encoding="utf-8")


def cut(text: str, parts: int) -> list[str]:
    """The text in so many parts, each ending at a blank line where there is one near."""
    bounds = [0]
    for i in range(1, parts):
        wanted = len(text) * i // parts
        found = text.find("\n\n", wanted)
        bounds.append(max(bounds[-1], wanted if found < 0 else found + 2))
    return [text[a:b] for a, b in zip(bounds, [*bounds[1:], len(text)], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="+", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--parts", type=int, default=20)
    parser.add_argument("--hold", type=int, default=10)
    chosen = parser.parse_args()
    book, held = chosen.to / "book", chosen.to / "held-out"
    book.mkdir(parents=True)
    held.mkdir()
    count = 0
    for name, text in documents(chosen.documents):
        if len(text) >= LEAST:
            parts = cut(text.replace("\r\n", "\n"), chosen.parts)
            (held / name).write_text(parts.pop(chosen.hold), encoding="utf-8")
            text, count = "".join(parts), count + 1
        (book / name).write_text(text, encoding="utf-8")
    print(f"{count} parts held out")


if __name__ == "__main__":
    main()
