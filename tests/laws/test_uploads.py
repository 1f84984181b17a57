"""Files from strangers: their names stay names, what they do is bounded, and one bad file costs no other."""

from __future__ import annotations

import io
import os
import socket
import struct
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openbook.book import BookFault, Unreadable, fence, open_book
from openbook.book.apart import Limits, page_png, parse_apart
from openbook.book.documents import parse
from openbook.book.embedder import HashedWords
from openbook.book.store import Book
from openbook.book.uploads import MAX_BYTES, MAX_PARTS, here, original, receive, safe_name, staging

ENCODER = HashedWords()
COMET = b"# Comets\n\nMaurice led the comet team.\n"
BITS = [*"a.b/\\ :~%\0\n\u202e\u200bé漢*", "\ud800", "..", "../", "nul.", "CON", "com1"]
hostile = st.lists(st.sampled_from(BITS), max_size=30).map("".join)


@given(hostile | st.text(max_size=400))
@example("../../etc/passwd")
@example("C:\\Windows\\System32\\drivers\\etc\\hosts")
@example("/" * 300)
@example("COM1.txt/..\\.ssh/authorized_keys")
@example("gpj\u202efdp.exe")
def test_a_name_never_leaves_its_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    safe = safe_name(name)
    parts = safe.split("/")
    assert 1 <= len(parts) <= MAX_PARTS
    for part in parts:
        assert part and part == part.strip(". ") and len(part.encode()) <= MAX_BYTES
        assert part.isprintable() or part.encode()  # no control character
        assert not any(ord(c) < 32 or c in '\\:*?"<>|\x7f' for c in part)
        assert part.split(".")[0].lower() not in ("con", "prn", "aux", "nul", "com1", "lpt1")
    folder = Path("/srv/book")
    assert Path(os.path.normpath(folder / safe)).is_relative_to(folder) and not Path(safe).is_absolute()
    assert safe_name(safe) == safe


@pytest.mark.parametrize(
    "name", ["comet.md", "notes/comet tail.md", "Übersicht (2).pdf", "彗星/尾.txt", "a.b.tar.gz", "Makefile"]
)
def test_a_plain_name_is_left_as_it_is(name: str) -> None:
    assert safe_name(name) == name


def test_a_long_name_keeps_its_ending() -> None:
    assert safe_name("x" * 1_000 + ".pdf").endswith("x.pdf")


def uploaded(book: Book, *files: tuple[str, bytes]) -> object:
    with staging(book.path) as folder:
        staged = []
        for number, (name, data) in enumerate(files):
            (folder / str(number)).write_bytes(data)
            staged.append((name, folder / str(number)))
        return receive(book, staged, encoder=ENCODER)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return open_book(tmp_path / "book")


def test_an_upload_is_read_kept_and_forgotten(book: Book, tmp_path: Path) -> None:
    uploaded(book, ("../../notes/comet.md", COMET), ("tail.txt", b"The tail is long. It was measured."))
    assert [d.name for d in book.documents()] == ["notes/comet.md", "tail.txt"]
    assert original(book, "notes/comet.md") == COMET
    kept = sorted(p for p in (book.path / "uploads").rglob("*") if p.is_file())
    assert len(kept) == 2 and not list(tmp_path.glob("notes"))
    done = book.forget("notes/comet.md")
    assert [p.name for p in (book.path / "uploads").rglob("*") if p.is_file()] == ["tail.txt"]
    assert book.prove(done.traces).left == []


def originals(book: Book) -> list[str]:
    return sorted(path.name for path in (book.path / "uploads").rglob("*") if path.is_file())


def test_a_forget_that_was_killed_takes_the_original_too(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded(book, ("comet.md", COMET), ("tail.txt", b"The tail is long."))
    with monkeypatch.context() as patch:
        patch.setattr("openbook.book.uploads.retain", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            book.forget("comet.md")
    assert originals(book) == ["comet.md", "tail.txt"]
    open_book(book.path).forget()  # what was interrupted is finished; the rows that named the path are gone by now
    assert originals(book) == ["tail.txt"]


def test_what_an_upload_that_was_killed_left_is_no_secret_keeper(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("openbook.book.writer.Writer.commit", killed)
        with pytest.raises(KeyboardInterrupt):
            uploaded(book, ("comet.md", COMET))
    assert originals(book) == []
    with monkeypatch.context() as patch:
        patch.setattr("openbook.book.adding.settle", killed)
        with pytest.raises(KeyboardInterrupt):
            uploaded(book, ("comet.md", COMET))
    assert "Maurice" in open_book(book.path).text("comet.md") and original(open_book(book.path), "comet.md") is None
    assert uploaded(open_book(book.path), ("comet.md", COMET)).unchanged == 1
    assert original(open_book(book.path), "comet.md") == COMET


def test_originals_go_with_the_last_version_that_holds_them(book: Book) -> None:
    uploaded(book, ("comet.md", COMET))
    before = book.version
    uploaded(book, ("tail.txt", b"The tail is long."))
    book.use(before)
    assert originals(book) == ["comet.md", "tail.txt"]
    book.prune(1)
    assert originals(book) == ["comet.md"]


def test_bad_files_cost_the_good_ones_nothing(book: Book) -> None:
    added = uploaded(
        book,
        ("a.pdf", b"%PDF-1.4 no"),
        ("comet.md", COMET),
        ("b.docx", b"PK\x03\x04rest"),
        ("c.bin", bytes(range(32)) * 9),
    )
    assert [d.name for d in book.documents()] == ["comet.md"]
    assert [s.name for s in added.skipped] == ["a.pdf", "b.docx", "c.bin"]
    assert all(str(book.path) not in s.reason for s in added.skipped)
    assert [p.name for p in (book.path / "uploads").rglob("*") if p.is_file()] == ["comet.md"]


def test_a_bad_file_does_not_replace_a_good_one(book: Book) -> None:
    uploaded(book, ("comet.md", COMET))
    with pytest.raises(BookFault, match="binary"):
        uploaded(book, ("comet.md", b"\0" * 100))
    assert "Maurice" in book.text("comet.md") and original(book, "comet.md") == COMET
    assert uploaded(book, ("comet.md", b"Vass led it.")).replaced == 1
    assert "Vass" in book.text("comet.md") and original(book, "comet.md") == b"Vass led it."
    assert uploaded(book, ("comet.md", b"Vass led it.")).unchanged == 1


def test_names_that_meet(book: Book, tmp_path: Path) -> None:
    (tmp_path / "comet.md").write_bytes(COMET)
    book.add(tmp_path / "comet.md", encoder=ENCODER)
    uploaded(book, ("comet.md", b"One."), ("./comet.md", b"Two."))
    assert [d.name for d in book.documents()] == ["comet (2).md", "comet.md", "uploads/comet.md"]
    assert "Maurice" in book.text("comet.md")


def test_links_and_devices_are_no_uploads(book: Book, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret words")
    with staging(book.path) as folder:
        (folder / "0").symlink_to("/dev/zero")
        os.mkfifo(folder / "1")
        (folder / "2").write_bytes(COMET)
        added = receive(book, [("a.txt", folder / "0"), ("b.txt", folder / "1"), ("c.md", folder / "2")], ENCODER)
    assert [s.name for s in added.skipped] == ["a.txt", "b.txt"] and added.documents == 1
    linked = open_book(tmp_path / "linked")
    (tmp_path / "elsewhere").mkdir()
    (linked.path / "uploads").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BookFault, match="is a link"), staging(linked.path):
        pass


def test_a_moved_book_knows_its_uploads(book: Book, tmp_path: Path) -> None:
    uploaded(book, ("comet.md", COMET))
    moved = open_book(book.path.rename(tmp_path / "moved"))
    assert original(moved, "comet.md") == COMET
    assert uploaded(moved, ("comet.md", COMET)).unchanged == 1
    assert uploaded(moved, ("comet.md", b"Vass led it.")).replaced == 1
    moved.forget("comet.md")
    assert not [p for p in (moved.path / "uploads").rglob("*") if p.is_file()]


def test_an_original_that_changed_is_no_original(book: Book, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(COMET)
    book.add(tmp_path / "a.md", encoder=ENCODER)
    assert original(book, "a.md") == COMET
    (tmp_path / "a.md").write_bytes(b"root:x:0:0")
    assert original(book, "a.md") is None
    assert here(book.path, "/etc/passwd") == "/etc/passwd"


def test_what_a_killed_server_left_is_swept(book: Book) -> None:
    (book.path / "uploads" / ".staged-dead").mkdir(parents=True)
    (book.path / "uploads" / ".staged-dead" / ".lock").touch()
    with staging(book.path) as mine:
        assert [p.name for p in (book.path / "uploads").iterdir()] == [mine.name]
        with staging(book.path):
            assert mine.exists()
    assert not list((book.path / "uploads").iterdir())


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
