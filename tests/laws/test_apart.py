"""A stranger's file is read in a process apart: the same document, within bounds, and nothing else of the disk."""

from __future__ import annotations

import io
import socket
import struct
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from openbook.book import Unreadable, fence
from openbook.book.apart import Limits, page_png, parse_apart
from openbook.book.documents import parse

COMET = b"# Comets\n\nMaurice led the comet team.\n"


def docx(body: str, **parts: bytes) -> bytes:
    """A small Word document."""
    types = "http://schemas.openxmlformats.org"
    relation = f'Type="{types}/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"'
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", f'<Types xmlns="{types}/package/2006/content-types"/>')
        archive.writestr(
            "_rels/.rels",
            f'<R xmlns="{types}/package/2006/relationships"><Relationship Id="r" {relation}/></R>',
        )
        archive.writestr(
            "word/document.xml",
            f'<w:document xmlns:w="{types}/wordprocessingml/2006/main"><w:body>{body}</w:body></w:document>',
        )
        for name, data in parts.items():
            archive.writestr(name.replace("__", "/") + ".xml", data)
    return made.getvalue()


def line(text: str, style: str = "") -> str:
    named = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{named}<w:r><w:t>{text}</w:t></w:r></w:p>"


WORD = docx(
    line("Comets", "Heading1")
    + line("Tails &amp; heads")
    + f"<w:tbl><w:tr><w:tc>{line('a')}</w:tc><w:tc>{line('b')}</w:tc></w:tr></w:tbl>",
    docProps__core=b'<c xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>On comets</dc:title></c>',
)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.md", COMET), ("a.html", b"<h1>T</h1><p>x &lt;b&gt;"), ("a.docx", WORD), ("a.csv", b"a,b\n1,2\n")],
)
def test_apart_and_in_process_read_the_same(name: str, data: bytes) -> None:
    assert parse_apart(data, Path(name), "n") == parse(data, Path(name), "n")


def test_a_word_document_has_title_headings_and_tables() -> None:
    document = parse(WORD, Path("a.docx"))
    assert document.title == "On comets" and [h.text for h in document.headings] == ["Comets"]
    assert document.text.split("\n\n")[:2] == ["Comets", "Tails & heads"] and "a" in document.text.split("\n\n")[2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (docx(line("x"), word__styles=b" " * (33 << 20)), "unpacks to 33.0 MB"),
        (docx(line("x"), word__styles=b'<!DOCTYPE l [<!ENTITY a "b">]><l>&a;</l>'), "declares entities"),
        (
            docx(line("x"), word__styles='<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE l []><l/>'.encode("utf-16")),
            "declares entities",
        ),
        (docx("<w:tbl><w:tr><w:tc>" * 2_000 + "</w:tc></w:tr></w:tbl>" * 2_000), "nests its elements too deeply"),
        (docx("<w:p>"), "damaged"),
        (b"hello", "is not a Word document, whatever"),
    ],
)
def test_hostile_word_documents_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        parse(data, Path("a.docx"))
    assert reason in caught.value.reason


def pdf(*objects: bytes) -> bytes:
    """The smallest PDF with these objects, the first of them the catalogue."""
    numbered = b"".join(b"%d 0 obj\n%s\nendobj\n" % (n, each) for n, each in enumerate(objects, 1))
    return b"%PDF-1.4\n" + numbered + b"trailer<</Root 1 0 R/Size %d>>\n%%%%EOF\n" % (len(objects) + 1)


FONT = b"<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"


def pages(*contents: bytes, box: bytes = b"[0 0 612 792]", more: bytes = b"") -> bytes:
    """A PDF of pages with these (packed) content streams."""
    kids = b" ".join(b"%d 0 R" % (3 + 2 * n) for n in range(len(contents)))
    made = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, len(contents))]
    for number, content in enumerate(contents):
        packed = zlib.compress(content)
        rest = (box, FONT, 4 + 2 * number, more)
        made.append(b"<</Type/Page/Parent 2 0 R/MediaBox%s/Resources%s/Contents %d 0 R%s>>" % rest)
        made.append(b"<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(packed), packed))
    return pdf(*made)


def said(text: bytes) -> bytes:
    return b"BT /F1 12 Tf 72 720 Td (%s) Tj ET" % text


def refused(name: str, data: bytes, limits: Limits) -> str:
    with pytest.raises(Unreadable) as caught:
        parse_apart(data, Path(name), limits=limits)
    return caught.value.reason


def test_a_pdf_that_unpacks_to_gigabytes_is_refused() -> None:
    bomb = pages(said(b"hello hello hello hello") * 1_000_000)
    assert "memory" in refused("a.pdf", bomb, Limits(memory=256 << 20, cpu=20))


def test_a_million_pages_are_refused() -> None:
    many = pdf(
        b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1000000>>", b"<</Type/Page/Parent 2 0 R>>"
    )
    assert "1,000,000 pages" in refused("a.pdf", many, Limits())


def test_memory_time_and_output_are_bounded() -> None:
    assert "memory" in refused("a.html", b"<p>hi</p>" * 2_000_000, Limits(memory=192 << 20))
    assert "longer" in refused("a.html", b"<p>hi</p>" * 4_000_000, Limits(cpu=1))
    assert "could not be read" in refused("a.txt", b"x y " * 500_000, Limits(output=1 << 20))


def test_a_reader_that_hangs_prints_or_forks_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "strange_readers.py"
    module.write_text(
        "import os, time\nfrom openbook.book.documents import Extracted, reader\n"
        "@reader('.hangs')\ndef hangs(data):\n    if os.fork() == 0:\n        pass\n    time.sleep(600)\n"
        "@reader('.prints')\ndef prints(data):\n    os.write(1, b'+{}'); print('+{}'); return Extracted('whole')\n"
        "@reader('.dies')\ndef dies(data):\n    os.kill(os.getpid(), 11)\n"
        "@reader('.torch')\ndef heavy(data):\n    import sys\n"
        "    return Extracted(' '.join(sorted({'torch', 'numpy', 'lance'} & {*sys.modules})) or 'light')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("strange_readers")
    began = time.monotonic()
    assert "longer" in refused("a.hangs", b"x", Limits(seconds=1))
    assert time.monotonic() - began < 30
    assert parse_apart(b"x", Path("a.prints")).text == "whole"
    assert "SIGSEGV" in refused("a.dies", b"x", Limits())
    assert parse_apart(b"x", Path("a.torch")).text == "light"
    del sys.modules["strange_readers"]


@pytest.mark.skipif(not fence.version(), reason="this system has no Landlock")
def test_a_reader_that_does_what_a_file_says_can_do_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "secret").write_text("secret words")
    (tmp_path / "modules" / "obedient_readers.py").write_text(
        "import socket, subprocess\nfrom openbook.book.documents import Extracted, reader\n"
        "@reader('.obeys')\ndef obeys(data):\n    said = []\n    for line in data.decode().splitlines():\n"
        "        try:\n            said.append(f'{line}: {eval(line)!r}')\n"
        "        except Exception as error:\n            said.append(f'{line}: {type(error).__name__}')\n"
        "    return Extracted('\\n'.join(said))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    __import__("obedient_readers")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        orders = [
            f"open({str(tmp_path / 'secret')!r}).read()", "open('/etc/passwd').read()", "__import__('os').listdir('/')",
            f"open({str(tmp_path / 'mine')!r}, 'w')", f"__import__('os').remove({str(tmp_path / 'secret')!r})",
            f"socket.create_connection({address!r})", "open('/proc/1/environ').read()",
            f"subprocess.run(['cat', {str(tmp_path / 'secret')!r}], check=True)",
        ]  # fmt: skip
        told = parse_apart("\n".join(orders).encode(), Path("a.obeys")).text.splitlines()
    assert [line.rpartition(": ")[2] for line in told[:-1]] == ["PermissionError"] * 7
    assert told[-1].endswith(("PermissionError", "CalledProcessError"))
    assert (tmp_path / "secret").exists() and not (tmp_path / "mine").exists()
    del sys.modules["obedient_readers"]


def test_a_page_is_drawn_with_its_place_marked() -> None:
    data = pages(said(b"First page."), said(b"The comet came."))
    text = parse_apart(data, Path("a.pdf")).text
    at = text.index("comet")
    plain, marked = page_png(data, 2, at_most=400), page_png(data, 2, [(at, at + 5)], 400)
    assert plain[:8] == marked[:8] == b"\x89PNG\r\n\x1a\n" and plain != marked
    assert page_png(data, 2, [(0, 5)], 400) == plain  # the other page's words
    with pytest.raises(Unreadable, match="has 2 pages"):
        page_png(data, 3)
    huge = pages(said(b"x"), box=b"[0 0 9999999 9999999]")
    assert len(page_png(huge, 1, at_most=10**9)) < 1 << 20


def pixels(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """RGB of a PNG as we write it: one chunk of data, no filters."""
    wide, high = struct.unpack(">II", png[16:24])
    rows = np.frombuffer(zlib.decompress(png[41:-16]), np.uint8).reshape(high, 1 + 3 * wide)
    return rows[:, 1:].reshape(high, wide, 3)


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
@pytest.mark.parametrize("crop", [b"", b"/CropBox[50 600 400 760]"])
def test_the_mark_lies_on_the_words_however_the_page_is_turned(turned: int, crop: bytes) -> None:
    data = pages(said(b"comet"), more=b"/Rotate %d" % turned + crop)
    plain, marked = (pixels(page_png(data, 1, spans, 500)) for spans in ([], [(0, 5)]))
    ink, changed = (np.argwhere(where.any(axis=2)) for where in (plain < 128, plain != marked))
    assert len(ink) > 20 and len(changed) > 20
    for side in (0, 1):
        assert changed[:, side].min() <= ink[:, side].min() and ink[:, side].max() <= changed[:, side].max()
        spare = changed[:, side].max() - changed[:, side].min() - (ink[:, side].max() - ink[:, side].min())
        assert spare < 20
