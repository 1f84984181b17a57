"""Files as people have them: every format, every way a file can be bad."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openbook.book import Unreadable, read, split, supported
from openbook.book.embedder import HashedWords
from openbook.book.walk import walk


def pdf(*pages: str, extra: str = "") -> bytes:
    """A small valid PDF with one line of text a page; an empty page has no text."""
    objects = ["<</Type/Catalog/Pages 2 0 R>>", ""]
    kids = []
    for page in pages:
        stream = f"BT /F1 12 Tf 72 720 Td ({page}) Tj ET" if page else ""
        kids.append(f"{len(objects) + 1} 0 R")
        font = "<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
        box = "/MediaBox[0 0 612 792]"
        objects.append(f"<</Type/Page/Parent 2 0 R{box}/Resources{font}/Contents {len(objects) + 2} 0 R>>")
        objects.append(f"<</Length {len(stream)}>>stream\n{stream}\nendstream")
    objects[1] = f"<</Type/Pages/Kids[{' '.join(kids)}]/Count {len(kids)}>>"
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer<</Size {size}/Root 1 0 R{extra}>>"
    return body + f"{trailer}\nstartxref\n{len(body)}\n%%EOF\n".encode()


LOCKED = f"/ID[<00><00>]/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<{'11' * 32}>/U<{'22' * 32}>>>"


def test_a_pdf_gives_its_pages(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf("Maurice led the team.", "", "The comet came."))
    document = read(tmp_path / "a.pdf")
    assert document.media == "application/pdf"
    assert document.page_starts is not None
    for words, page in (("Maurice", 1), ("comet", 3)):
        assert document.page(document.text.index(words)) == page


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.pdf", pdf("", ""), "holds no text (scanned?)"),
        ("a.pdf", pdf("x", extra=LOCKED), "is encrypted"),
        ("a.pdf", pdf("some text")[:60], "ends too early"),
        ("a.pdf", b"hello", "is not a PDF"),
        ("a.pdf", b"", "is not a PDF"),
        ("a.txt", b"", "holds no text"),
        ("a.txt", b" \n\t\r\n", "holds no text"),
        ("a.txt", bytes(range(256)) * 8, "looks binary"),
        ("a.html", b"<html><script>x</script></html>", "holds no text"),
        ("a.html", b"<div>" * 5_000 + b"x", "nests its elements 5,000 deep"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(Unreadable) as caught:
        read(path)
    assert reason in caught.value.reason
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_files_never_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "folder.md").mkdir()
    for name, reason in (
        ("pipe.txt", "regular file"),
        ("loop.txt", "leads back to itself"),
        ("gone.txt", "does not exist"),
        ("folder.md", "regular file"),
        ("missing.txt", "does not exist"),
    ):
        with pytest.raises(Unreadable, match=reason):
            read(tmp_path / name)
    found = walk(tmp_path)
    assert [path.name for path in found.files] == ["gone.txt", "loop.txt", "pipe.txt"]
    assert [Path(skipped.name).name for skipped in found.skipped] == ["circle"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_one_may_not_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("secret")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(Unreadable, match="permissions"):
        read(tmp_path / "a.txt")


def test_too_much_is_refused_with_size_and_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "big.txt").open("wb") as file:
        file.truncate(70 * 2**20)
    with pytest.raises(Unreadable, match=r"is 70\.0 MB, more than the limit of 64\.0 MB; split it"):
        read(tmp_path / "big.txt")
    (tmp_path / "long.txt").write_bytes(b"a line of words\n" * (21 * 2**16))
    with pytest.raises(Unreadable, match="characters of text, more than the limit"):
        read(tmp_path / "long.txt")
    monkeypatch.setattr("openbook.book.readers.pdf.MAX_PAGES", 2)
    (tmp_path / "a.pdf").write_bytes(pdf("a", "b", "c"))
    with pytest.raises(Unreadable, match="has 3 pages"):
        read(tmp_path / "a.pdf")


@pytest.mark.parametrize(
    ("data", "text", "note"),
    [
        ("grün\r\nrot\rblau".encode(), "grün\nrot\nblau", None),
        ("grün".encode("utf-8-sig"), "grün", None),
        ("grün 彗星".encode("utf-16"), "grün 彗星", "read as utf-16"),
        ("plain words here".encode("utf-16-le"), "plain words here", "read as utf-16-le"),
        ("彗星团队由莫里斯领导。" * 20, None, "read as gb"),
        ("彗星团队".encode() * 50 + b"\xe5\xbd", "彗星团队" * 50 + "\ufffd", "1 broken UTF-8"),
        (b"a\xff" * 10, None, "not UTF-8"),
        (b"x " * 40_000 + "“café”".encode() * 50 + b"\xff", "x " * 40_000 + "“café”" * 50 + "\ufffd", "1 broken UTF-8"),
        (b"x " * 40_000 + "café grün ".encode("latin-1") * 50, "x " * 40_000 + "café grün " * 50, "not UTF-8"),
    ],
)
def test_bytes_become_text(tmp_path: Path, data: bytes | str, text: str | None, note: str | None) -> None:
    (tmp_path / "a.txt").write_bytes(data if isinstance(data, bytes) else data.encode("gb18030"))
    document = read(tmp_path / "a.txt")
    expected = data if isinstance(data, str) else text
    assert expected is None or document.text == expected
    assert (document.note is None) == (note is None)
    assert note is None or note in (document.note or "")


def test_html_reads_as_a_person_would(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        "<html><head><title> The  comet </title><style>p {}</style></head><body><nav>Home</nav><h1>Comet <i>C</i></h1>"
        "<p>Led by<b> Maurice</b>.<br>In&nbsp;1950</p><script>x()</script><ul><li>one<li>two</ul>"
        "<table><tr><td>a<td>b<tr><td>c</table><pre>x\n  y</pre><footer>Imprint</footer></body></html>"
    )
    document = read(tmp_path / "a.html")
    assert document.title == "The comet"
    assert document.text == "Comet C\n\nLed by Maurice.\nIn 1950\n\none\ntwo\n\na\tb\nc\n\nx\n  y"
    assert [(h.text, document.text[h.start : h.end]) for h in document.headings] == [("Comet C", "Comet C")]


def test_html_says_its_own_encoding(tmp_path: Path) -> None:
    page = '<html><head><meta charset="gbk"></head><body>彗星团队</body></html>'
    (tmp_path / "a.html").write_bytes(page.encode("gbk"))
    assert read(tmp_path / "a.html").text == "彗星团队"


def test_markdown_and_rst_know_their_headings(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        '---\ntitle: "Guide"\n---\n# Install ##\n```sh\n# a comment\n```\nLinux\n-----\nText\n\n'
        "| a |\n|---|\n\n#no heading\n"
    )
    document = read(tmp_path / "a.md")
    assert document.title == "Guide"
    assert [(h.level, h.text) for h in document.headings] == [(1, "Install"), (2, "Linux")]
    (tmp_path / "a.rst").write_text("=====\nTitle\n=====\n\n:mod:`json` --- data\n--------------------\n\nText\n")
    assert [(h.level, h.text) for h in read(tmp_path / "a.rst").headings] == [(1, "Title"), (2, "json --- data")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", "# a" + " " * 200_000 + "b\n"),
        ("a.md", "# " + "[" * 200_000 + "\n"),
        ("a.md", "[" * 200_000 + "\n===\n"),
        ("a.md", "---\ntitle: a" + " " * 200_000 + "b\n---\ntext\n"),
        ("a.rst", ":a" * 100_000 + "\n" + "=" * 200_000 + "\n"),
    ],
)
def test_a_line_made_to_be_silly_is_no_heading(tmp_path: Path, name: str, text: str) -> None:
    """Taken apart as a heading, each of these would cost minutes."""
    (tmp_path / name).write_text(text)
    document = read(tmp_path / name)
    assert document.headings == () and document.title == "a" and document.text == text


def test_titles_and_headings_are_short_whatever_the_document_says(tmp_path: Path) -> None:
    """Every passage is stored and read with them: a title of megabytes would be stored once a passage."""
    long = "word " * 10_000
    (tmp_path / "title.html").write_text(f"<title>{long}</title><h1>{long}</h1><p>{long}")
    nested = "<h1>x<div>" * 50 + "</div></h1>" + long + "</div></h1>" * 49
    (tmp_path / "nested.html").write_text(nested)
    for name in ("title.html", "nested.html"):
        document = read(tmp_path / name)
        assert len(document.title) <= 200 and all(len(h.text) <= 400 for h in document.headings)
        pieces = split(document, HashedWords())
        assert len(pieces) > 10 and all(len(piece.heading or "") <= 1_500 for piece in pieces)


def test_a_folder_is_walked_in_order_without_its_junk(tmp_path: Path) -> None:
    for name in ("b.md", "a.txt", ".hidden.md", "x.unknown", "README", ".git/c.md", "node_modules/d.js", "sub/e.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    found = walk(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.files] == ["README", "a.txt", "b.md", "sub/e.py"]
    assert found.ignored == 1


def test_a_file_named_by_the_person_is_read_as_text_whatever_its_ending(tmp_path: Path) -> None:
    (tmp_path / "notes.unknown").write_text("some words")
    assert read(tmp_path / "notes.unknown").text == "some words"
    assert {".md", ".pdf", ".html", ".py", ".csv", ".rst", ".txt"} <= set(supported())
