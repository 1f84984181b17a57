"""The datastore of kNN-LM: exact distances whoever names the candidates, and the same rows however it came about."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.book import neighbours as neighbours_module
from openbook.book import segment_writer as writer_module
from openbook.book import tending as tending_module
from openbook.book.embedder import HashedWords
from openbook.book.manifest import BookFault
from openbook.book.neighbours import Neighbours, open_neighbours
from openbook.book.segment_writer import SegmentWriter
from openbook.book.segments import LISTING, folder_of, read_listing
from openbook.book.store import open_book
from openbook.book.tending import forget, retain, tend
from openbook.mix.memorise import CONTEXT, WINDOW, lasting, memorise, windows

WIDTH = 12


def rows(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    keys = draw.standard_normal((count, WIDTH)).astype(np.float32)
    return keys, draw.integers(0, 50, count), np.arange(count) * 3


def made(folder: Path, sizes: list[int], cut: int = 1000) -> dict[str, tuple]:
    """A datastore of documents d0, d1, … of so many rows, appended some at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    writer, held = SegmentWriter(folder, WIDTH), {}
    for seed, size in enumerate(sizes):
        name = f"d{seed}"
        held[name] = rows(seed, size)
        for at in range(0, size, cut):
            part = slice(at, min(size, at + cut))
            writer.append((name, "h"), at, size, *(column[part] for column in held[name]))
    tend(writer)
    return held


def brute(held: dict[str, tuple], names: list[str], q_QM: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k smallest squared distances to these documents' keys as they are stored, and the total variance."""
    keys = np.concatenate([held[name][0] for name in names]).astype(np.float16).astype(np.float64)
    d_QN = ((q_QM[:, None].astype(np.float64) - keys) ** 2).sum(-1)
    return np.sort(d_QN, 1)[:, :k], ((keys - keys.mean(0)) ** 2).sum(1).mean()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(1, 20), st.integers(0, 99))
@settings(max_examples=12)
def test_few_keys_are_compared_one_by_one_as_by_brute_force(tmp_path_factory, sizes, k, seed):
    folder = tmp_path_factory.mktemp("store")
    held = made(folder, sizes, cut=17)
    chosen = [f"d{i}" for i in range(len(sizes)) if i % 2 == 0]
    for names in (list(held), chosen):
        store = Neighbours(folder, None if names == list(held) else {(name, "h") for name in names})
        assert len(store) == sum(len(held[name][1]) for name in names)
        q_QM = np.random.default_rng(seed).standard_normal((3, WIDTH)).astype(np.float32)
        found = store.search(q_QM, k)
        wanted, variance = brute(held, names, q_QM, k)
        assert np.allclose(found.distances_Qk, wanted, rtol=1e-5, atol=1e-5)
        assert np.isclose(store.variance, variance, rtol=1e-5, atol=1e-9)
        for row, value in zip(found.rows_Qk.ravel(), found.values_Qk.ravel(), strict=True):
            place = store.place(int(row))
            assert place.document_id in names
            assert held[place.document_id][1][place.offset // 3] == value


def test_of_many_the_index_names_candidates_and_their_distances_are_exact(tmp_path, monkeypatch):
    monkeypatch.setattr(tending_module, "EXACT", 500)
    monkeypatch.setattr(writer_module, "SEGMENT", 700)
    held = made(tmp_path, [2000, 100, 900], cut=300)
    listing = read_listing(tmp_path)
    assert listing.index and listing.indexed >= 2500
    q_QM = np.random.default_rng(5).standard_normal((20, WIDTH)).astype(np.float32)
    for names in (["d0", "d1", "d2"], ["d0", "d2"]):
        store = Neighbours(tmp_path, {(name, "h") for name in names})
        found = store.search(q_QM, 10)
        wanted, _ = brute(held, names, q_QM, 10)
        for q, rows_k, d_k in zip(q_QM, found.rows_Qk, found.distances_Qk, strict=True):
            for row, d in zip(rows_k, d_k, strict=True):
                place = store.place(int(row))
                key = held[place.document_id][0][place.offset // 3].astype(np.float16).astype(np.float64)
                assert np.isclose(d, ((q - key) ** 2).sum(), rtol=1e-5)
                assert place.document_id in names
        near = np.isclose(found.distances_Qk[:, None], wanted[:, :, None], rtol=1e-4).any(-1)
        assert near.mean() > 0.7


def test_what_is_appended_after_the_index_was_made_is_found_too(tmp_path, monkeypatch):
    monkeypatch.setattr(tending_module, "EXACT", 500)
    made(tmp_path, [1500])
    writer = SegmentWriter(tmp_path)
    keys, values, offsets = rows(77, 20)
    writer.append(("late", "h"), 0, 20, keys, values, offsets)
    tend(writer)
    assert writer.listing.indexed == 1500
    found = Neighbours(tmp_path).search(keys, 1)
    assert np.allclose(found.distances_Qk[:, 0], 0, atol=1e-3) and (found.values_Qk[:, 0] == values).all()


def test_what_was_forgotten_is_in_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tending_module, "EXACT", 300)
    folder = folder_of(tmp_path, "m")
    held = made(folder, [400, 250, 300], cut=90)
    needles = [held["d1"][0][i].astype(np.float16).tobytes() for i in (0, 100, 249)]
    whole = {path: path.read_bytes() for path in folder.rglob("*.npy")}
    assert all(any(needle in data for data in whole.values()) for needle in needles)
    assert forget(tmp_path, ["d1", "none"]) == 250
    for path in filter(Path.is_file, folder.rglob("*")):
        data = path.read_bytes()
        assert not any(needle in data for needle in needles) and b'"d1"' not in data
    store, fresh = Neighbours(folder), Neighbours(folder, {("d0", "h"), ("d2", "h")})
    assert len(store) == len(fresh) == 700 and forget(tmp_path, ["d1"]) == 0
    assert retain(tmp_path, {("d2", "h")}) == 400
    assert len(Neighbours(folder)) == 300


@given(st.lists(st.integers(0, 300), min_size=1, max_size=12))
@settings(max_examples=8)
def test_joined_segments_hold_the_same_rows_in_the_same_order(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("store")
    held = {}
    for seed, size in enumerate(sizes):
        writer = SegmentWriter(folder, WIDTH)
        held[f"d{seed}"] = rows(seed, size)
        writer.append((f"d{seed}", "h"), 0, size, *held[f"d{seed}"])
        writer.flush()
        writer.join()
    segments = SegmentWriter(folder).segments()
    keys = np.concatenate([segment.keys_NM for segment in segments])
    assert np.array_equal(keys, np.concatenate([h[0] for h in held.values()]).astype(np.float16))
    assert SegmentWriter(folder).stored() == {(f"d{i}", "h"): (n, n) for i, n in enumerate(sizes)}
    assert len(segments) <= 2 + np.log2(1 + sum(sizes))


@given(st.integers(0, 3000), st.integers(1, 3000))
def test_every_token_but_the_first_two_is_predicted_once_after_enough_context(length, first):
    cut = list(windows(length))
    predicted = [at for window in cut for at in range(window.first + 1, window.stop)]
    assert predicted == list(range(2, length))
    assert all(w.stop - w.start <= WINDOW and (w.start == 0 or w.first - w.start + 1 >= CONTEXT) for w in cut)
    left = [at for window in windows(length, first) for at in range(window.first + 1, window.stop)]
    assert left == list(range(first + 1, length))
    assert {w[:2] for w in windows(length, first)} <= {w[:2] for w in cut}


@pytest.fixture
def notes(tmp_path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    for i in range(4):
        (folder / f"n{i}.md").write_text(
            f"# Note {i}\n\n" + f"The comet number {i} was seen by team {i}. " * (3 + 8 * i)
        )
    return folder


def snapshot(book, model) -> dict:
    """What a book's version has of each document: keys, values and offsets, to the bit."""
    store, held = open_neighbours(book, model.fingerprint), {}
    for segment in store.segments:
        for piece in segment.pieces:
            part = slice(piece.start, piece.stop)
            parts = held.setdefault((piece.id, piece.hash), [])
            parts.append(
                (
                    piece.first,
                    segment.keys_NM[part].tobytes(),
                    segment.values_N[part].tobytes(),
                    segment.offsets_N[part].tobytes(),
                )
            )
    return {key: tuple(b"".join(p[i] for p in sorted(parts)) for i in (1, 2, 3)) for key, parts in held.items()}


def test_appended_and_changed_is_as_built_at_once(tmp_path, notes, tiny_model):
    book = open_book(tmp_path / "a")
    encoder = HashedWords()
    first = notes / "n0.md"
    book.add(first, encoder=encoder)
    memorise(book, tiny_model)
    book.add(notes, encoder=encoder)
    done = memorise(book, tiny_model)
    assert done.documents == 3 and memorise(book, tiny_model).rows == 0
    other = open_book(tmp_path / "b")
    other.add(notes, encoder=encoder)
    memorise(other, tiny_model)
    texts = snapshot(book, tiny_model)
    # One document was added as a file and has another name, so another id: the rest is equal to the bit.
    assert sorted(texts.values()) == sorted(snapshot(other, tiny_model).values())

    before = open_book(tmp_path / "a", create=False)
    (notes / "n3.md").write_text("Something else altogether.")
    book.add(notes, encoder=encoder)
    memorise(book, tiny_model)
    now, then = open_neighbours(book, tiny_model.fingerprint), open_neighbours(before, tiny_model.fingerprint)
    assert now.documents == then.documents == 4 and len(now) < len(then)
    text = book.text("notes/n3.md")
    id = next(d.id for d in book.documents() if d.name == "notes/n3.md")
    places = [now.place(row) for row in np.flatnonzero(now._live_N)]
    assert [p.offset for p in places if p.document_id == id] == list(range(2, len(text)))  # a token a byte


def test_a_kill_at_any_moment_costs_at_most_a_segment(tmp_path, notes, tiny_model, monkeypatch):
    monkeypatch.setattr(writer_module, "SEGMENT", 64)
    whole = open_book(tmp_path / "whole")
    whole.add(notes, encoder=HashedWords())
    memorise(whole, tiny_model)
    wanted = snapshot(whole, tiny_model)
    real = os.fsync
    book = open_book(tmp_path / "book")
    book.add(notes, encoder=HashedWords())
    folder = folder_of(book.path, tiny_model.fingerprint)

    class Killed(BaseException):
        """As far as the disk can tell, the process is gone: nothing is written after it, nothing is tidied up."""

    for at in (2, 9, 23):
        left = [at]

        def dying(handle, left=left):
            left[0] -= 1
            if left[0] <= 0:
                raise Killed
            real(handle)

        monkeypatch.setattr(os, "fsync", dying)
        with pytest.raises(Killed):
            memorise(book, tiny_model)
        monkeypatch.setattr(os, "fsync", real)
        if read_listing(folder) is not None:
            for key, parts in snapshot(book, tiny_model).items():
                assert all(whole_part.startswith(part) for part, whole_part in zip(parts, wanted[key], strict=True))
    memorise(book, tiny_model)
    assert snapshot(book, tiny_model) == wanted
    names = {path.name for path in folder.iterdir()}
    listing = read_listing(folder)
    assert names == {LISTING, "lock", *listing.segments} | ({listing.index} if listing.index else set())


@pytest.mark.parametrize("moment", [0.3, 0.6])
def test_a_writer_that_is_killed_for_good_is_followed_by_another(tmp_path, moment):
    """kill -9 of a real process in the midst of appending: what the listing names is whole, the lock is free."""
    folder = tmp_path / "store"
    script = (
        "import numpy as np, itertools\n"
        "from pathlib import Path\n"
        "from openbook.book.segment_writer import SegmentWriter, writing\n"
        f"folder = Path({str(folder)!r})\n"
        "with writing(folder):\n"
        "    writer = SegmentWriter(folder, 4)\n"
        "    for i in itertools.count():\n"
        "        keys = np.full((9, 4), i % 99, np.float32)\n"
        "        writer.append((f'd{i}', 'h'), 0, 9, keys, np.full(9, i), np.arange(9))\n"
        "        writer.flush()\n"
        "        print(i, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    seen = -1
    for line in process.stdout:
        seen = int(line)
        if seen >= 20 * moment:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    with writer_module.writing(folder):
        writer = SegmentWriter(folder)
        stored = writer.stored()
    assert len(stored) >= seen + 1 and set(stored.values()) == {(9, 9)}
    for i, segment in enumerate(writer.segments()):
        assert (segment.keys_NM == i % 99).all() and (segment.values_N == i).all()


def test_damaged_files_are_said_to_be(tmp_path):
    folder = folder_of(tmp_path, "m")
    made(folder, [30])
    segment = folder / read_listing(folder).segments[0]
    for part in ("keys.npy", "values.npy", "offsets.npy", "sums.npy", "pieces.json"):
        path = segment / part
        whole = path.read_bytes()
        for damaged in (
            b"",
            whole[: len(whole) // 2],
            b"\x93NUMPY" + b"\xff" * 40,
            whole[:-1] + b"x]" if part.endswith("json") else b"x",
        ):
            path.write_bytes(damaged)
            with pytest.raises(BookFault, match="damaged"):
                Neighbours(folder)
        path.write_bytes(whole)
    listing = json.loads((folder / LISTING).read_text())
    pieces = json.loads((segment / "pieces.json").read_text())
    for change in ({"start": "0"}, {"id": ["d0"]}, {"of": None}, {"more": 1}):
        (segment / "pieces.json").write_text(json.dumps([{**pieces[0], **change}]))
        with pytest.raises(BookFault, match="damaged"):
            Neighbours(folder)
    for text in ("[" * 100_000, "3", "null"):
        (segment / "pieces.json").write_text(text)
        with pytest.raises(BookFault, match="damaged"):
            Neighbours(folder)
    (segment / "pieces.json").write_text(json.dumps(pieces))
    sums = np.load(segment / "sums.npy")
    np.save(segment / "sums.npy", sums * np.nan)
    with pytest.raises(BookFault, match="damaged"):
        Neighbours(folder)
    np.save(segment / "sums.npy", sums)
    for change in (
        {"next": 1},
        {"segments": ["../../../etc"]},
        {"width": -1},
        {"index": "/etc/passwd"},
        {"format": 9},
        {"more": 1},
    ):
        (folder / LISTING).write_text(json.dumps({**listing, **change}))
        with pytest.raises(BookFault, match="damaged"):
            Neighbours(folder)


def test_what_a_writer_removed_meanwhile_is_opened_anew(tmp_path, monkeypatch):
    held = made(tmp_path, [300])
    real, left = neighbours_module.open_segment, [1]

    def late(folder, name, width):
        if left[0]:
            left[0] -= 1
            writer = SegmentWriter(tmp_path)  # joins the segment that was about to be opened with another
            writer.append(("d1", "h"), 0, 250, *rows(1, 250))
            tend(writer)
        return real(folder, name, width)

    monkeypatch.setattr(neighbours_module, "open_segment", late)
    assert len(Neighbours(tmp_path)) == 550 and len(held) == 1


def test_an_index_covers_no_more_than_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(tending_module, "EXACT", 300)
    made(tmp_path, [400])
    listing = json.loads((tmp_path / LISTING).read_text())
    for change in ({"index": None}, {"indexed": 0}, {"indexed": 401}, {"segments": [], "indexed": 400}):
        (tmp_path / LISTING).write_text(json.dumps({**listing, **change}))
        with pytest.raises(BookFault, match="damaged"):
            Neighbours(tmp_path)


def test_rows_of_few_documents_are_found_whatever_list_they_are_in(tmp_path, monkeypatch):
    monkeypatch.setattr(tending_module, "EXACT", 500)
    monkeypatch.setattr(neighbours_module, "PROBES", 1)
    held = made(tmp_path, [2000, 6])
    assert read_listing(tmp_path).indexed == 2006
    q_QM = np.random.default_rng(5).standard_normal((20, WIDTH)).astype(np.float32)
    found = Neighbours(tmp_path, {("d1", "h")}).search(q_QM, 10)
    assert np.allclose(found.distances_Qk[:, :6], brute(held, ["d1"], q_QM, 6)[0], rtol=1e-5)
    assert (found.rows_Qk[:, :6] >= 2000).all() and (found.rows_Qk[:, 6:] == -1).all()


def test_a_datastore_of_which_all_was_forgotten_has_no_neighbours(tmp_path):
    folder = folder_of(tmp_path, "m")
    made(folder, [30])
    assert forget(tmp_path, ["d0"]) == 30
    store = Neighbours(folder)
    assert (len(store), store.variance) == (0, 0.0)
    assert store.search(np.zeros((2, WIDTH), np.float32), 3).rows_Qk.shape == (2, 0)


def test_two_writers_are_one_too_many(tmp_path):
    first, second = (writer_module.writing(tmp_path / "s") for _ in range(2))
    with first, pytest.raises(BookFault, match="another process"), second:
        pass


def test_keys_that_do_not_fit_in_16_bits_are_refused(tmp_path):
    writer = SegmentWriter(tmp_path, 2)
    with pytest.raises(BookFault, match="16 bits"):
        writer.append(("d", "h"), 0, 1, np.array([[1e6, 0]], np.float32), np.array([1]), np.array([0]))


def test_times_are_said_in_words():
    assert [lasting(s) for s in (4.4, 61, 3600, 7500)] == ["4 s", "1 min", "1 h 0 min", "2 h 5 min"]
