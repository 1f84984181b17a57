"""What the prover stands on: byte strings found wherever they are, and the words of a dictionary."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.book import BookFault, indices
from openbook.book.fst import Dictionary
from openbook.book.traces import Needles, pieces, words


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.lists(st.binary(min_size=16, max_size=40), max_size=6), st.data())
def test_needles_are_found_wherever_they_are(hay: bytes, needles: list[bytes], data: st.DataObject) -> None:
    for needle in data.draw(st.lists(st.sampled_from(needles), max_size=3)) if needles else []:
        at = data.draw(st.integers(0, len(hay)))
        hay = hay[:at] + needle + hay[at:]
    assert Needles(needles).within(hay) == {needle for needle in needles if needle in hay}


def test_needles_over_the_ends_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openbook.book.traces.AT_ONCE", 64)
    needle = bytes(range(40))
    for at in range(140):
        assert Needles([needle]).within(bytes(at) + needle + bytes(9)) == {needle}


def test_pieces_cover_a_text() -> None:
    text = "A first sentence, quite short. " + "word " * 80 + "end.\nAnother line of it, which goes on.\n"
    assert all(piece in text and len(piece.encode()) >= 16 for piece in pieces(text))
    assert words("The Mill, 1911; x1 Zürich 彗星很亮") == {"the", "mill", "zürich", "彗星很亮"}


@pytest.mark.parametrize("count", [1, 40, 400])
def test_a_dictionary_has_the_words_of_its_index_and_no_others(tmp_path: Path, count: int) -> None:
    import lance
    import pyarrow as pa
    from lance.file import LanceFileReader

    draw = random.Random(count)
    letters = string.ascii_letters + string.digits + "éüßñабвгд彗星很亮的水" + "_/.-"
    texts = [" ".join("".join(draw.choices(letters, k=draw.randint(1, 9))) for _ in range(10)) for _ in range(count)]
    table = lance.write_dataset(pa.table({"searched": pa.array(texts, pa.string())}), str(tmp_path / "t.lance"))
    table.create_scalar_index("searched", "INVERTED", **indices.FULL_TEXT)
    how = {name: value for name, value in indices.FULL_TEXT.items() if name != "with_position"}
    want = {token.text for text in texts for token in lance.tokenize(text, **how)}
    found: set[str] = set()
    for file in (tmp_path / "t.lance" / "_indices").rglob("*tokens.lance"):
        for row in LanceFileReader(str(file)).read_all().to_table().to_pylist():
            dictionary = Dictionary(row["_token_fst_bytes"])
            listed = set(dictionary)
            assert len(listed) == dictionary.count and all(word in dictionary for word in listed)
            assert not any(word + "q" in dictionary for word in listed if word + "q" not in listed)
            found |= listed
    assert found == want


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_a_damaged_dictionary_is_a_fault(data: bytes) -> None:
    try:
        dictionary = Dictionary((3).to_bytes(8, "little") + data)
        list(dictionary)
        assert "word" not in dictionary or "word" in set(dictionary)
    except BookFault:
        pass
