"""Plain text, records and source code, and how bytes of any of them become text."""

from __future__ import annotations

import codecs

from openbook.book.documents import Extracted, Unreadable, reader, tidy

# The longer marks first: UTF-32-LE begins with the mark of UTF-16-LE.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = bytes(b for b in range(32) if b not in b"\t\n\r\f\v\b\x1b") + b"\x7f"
_SAMPLE = 64 * 1024


def decode(data: bytes) -> tuple[str, str | None]:
    """Bytes to tidy text, and a note where they were not plain UTF-8. `Unreadable` where they look binary.

    Order: byte order mark, UTF-8, UTF-16 without a mark, UTF-8 with a few broken bytes, then a guess.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            note = None if encoding == "utf-8-sig" else f"not UTF-8, read as {encoding}"
            return tidy(data.decode(encoding, "replace")), note
    sample = data[:_SAMPLE]
    if wide := _unmarked_utf16(sample):
        return tidy(data.decode(wide, "replace")), f"not UTF-8, read as {wide}"
    if b"\0" in sample or len(sample) - len(sample.translate(None, _CONTROL)) > len(sample) // 20:
        raise Unreadable("looks binary")
    try:
        return tidy(data.decode("utf-8")), None
    except UnicodeDecodeError as error:
        return _decode_other(data, error.start)


def _unmarked_utf16(sample: bytes) -> str | None:
    """UTF-16 of mostly Latin text has its zero bytes all on one side of each pair."""
    pairs = len(sample) // 2
    if pairs < 4:
        return None
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if odd > 0.6 * pairs and even < 0.05 * pairs:
        return "utf-16-le"
    return "utf-16-be" if even > 0.6 * pairs and odd < 0.05 * pairs else None


def _decode_other(data: bytes, doubtful: int) -> tuple[str, str]:
    """Text that is not UTF-8 from byte `doubtful` on."""
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    beyond_ascii = len(data) - len(data.decode("ascii", "ignore"))
    # A UTF-8 file cut or patched in a few places is still UTF-8; a guess would garble all of the rest.
    if broken * 20 < beyond_ascii:
        return tidy(text), f"{broken} broken UTF-8 characters shown as \ufffd"
    from charset_normalizer import from_bytes

    # Guessed from the bytes in doubt: what stands before them may be plain ASCII and says nothing.
    best = from_bytes(data[max(0, doubtful - 1024) : doubtful + _SAMPLE]).best()
    encoding = best.encoding if best else "cp1252"
    return tidy(data.decode(encoding, "replace")), f"not UTF-8, read as {encoding}"


@reader(".txt", ".text", ".tex", ".adoc", ".asciidoc", ".org", ".readme", ".srt", ".vtt")
@reader("readme", "license", "licence", "copying", "notice", "authors", "changelog", "contributing", "todo", "news")
def read_text(data: bytes) -> Extracted:
    """Prose without mark-up that the passages need to know of."""
    text, note = decode(data)
    return Extracted(text, note=note)


@reader(".csv", ".tsv", ".jsonl", ".ndjson", ".log", media="text/csv")
@reader(".json", media="application/json")
def read_lines(data: bytes) -> Extracted:
    """Records, one a line, never cut inside a line that fits a passage."""
    text, note = decode(data)
    return Extracted(text, kind="lines", note=note)


@reader(".py", ".pyi", ".pyx", ".ipynb", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".java", ".kt", ".kts")
@reader(".scala", ".groovy", ".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".cu", ".cuh", ".m", ".mm")
@reader(".cs", ".fs", ".vb", ".go", ".rs", ".rb", ".php", ".pl", ".pm", ".lua", ".r", ".jl", ".swift", ".dart")
@reader(".hs", ".ml", ".mli", ".ex", ".exs", ".erl", ".clj", ".el", ".lisp", ".scm", ".nim", ".zig", ".v", ".sv")
@reader(".vhd", ".f", ".f90", ".asm", ".s", ".sql", ".sh", ".bash", ".zsh", ".fish", ".ps1", ".bat", ".cmake")
@reader(".toml", ".yaml", ".yml", ".ini", ".cfg", ".conf", ".proto", ".graphql", ".tf", ".nix", ".css", ".scss")
@reader(".xml", ".vue", ".svelte", "makefile", "dockerfile", "cmakelists.txt", "justfile", media="text/x-code")
def read_code(data: bytes) -> Extracted:
    """Source code and settings: passages end at blank lines and top-level definitions."""
    text, note = decode(data)
    return Extracted(text, kind="code", note=note)
