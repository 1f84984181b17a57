"""The index of the datastore: codes say about how far keys are, native and numpy say the same, damage is seen."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_specs import needs_kernels

from openbook.book import approximate, neighbours, tending
from openbook.book.approximate import Index, encode, estimate, extend, nearest, train, write
from openbook.book.manifest import BookFault
from openbook.book.neighbours import Neighbours, sound_index
from openbook.book.segment_writer import SegmentWriter
from openbook.book.segments import Listing
from openbook.native import kernels

WIDTHS = st.sampled_from([1, 3, 16, 17, 40, 63, 64, 65, 96, 130, 576])


def clustered(seed: int, count: int, width: int, centres: int = 5) -> np.ndarray:
    draw = np.random.default_rng(seed)
    at = draw.standard_normal((centres, width))[draw.integers(0, centres, count)]
    return (2 * at + draw.standard_normal((count, width))).astype(np.float32)


def made(keys_NM: np.ndarray, first: int = 0) -> Index:
    return extend(train(keys_NM, len(keys_NM)), np.array_split(keys_NM, 3), first)


@given(WIDTHS, st.integers(0, 99))
@settings(max_examples=30)
def test_an_estimate_is_exact_about_the_centre_and_right_on_average(width, seed):
    draw = np.random.default_rng(seed)
    r_NM, x_M = draw.standard_normal((400, width)).astype(np.float32), draw.standard_normal(width).astype(np.float32)
    codes_NW, sizes_N2 = encode(r_NM, np.zeros_like(r_NM))
    wanted_N = ((x_M - r_NM) ** 2).sum(1)
    # A query at the centre is as far as the key is long: nothing is estimated.
    assert np.allclose(estimate(np.zeros(width, np.float32), codes_NW, sizes_N2), (r_NM**2).sum(1), rtol=1e-5)
    error_N = estimate(x_M, codes_NW, sizes_N2) - wanted_N
    # Gao 2024, theorem 3.2: the error of r·x falls with the root of the width; its mean over draws is nil.
    spread = 2 * np.sqrt((np.pi / 2 - 1) * (x_M**2).sum() * (r_NM**2).sum(1).mean() / width)
    if width >= 16:
        assert abs(error_N.mean()) < 6 * spread / np.sqrt(len(error_N)) + 0.15 * spread
        assert error_N.std() < 1.6 * spread
    else:
        assert np.isfinite(error_N).all()


@needs_kernels
@given(WIDTHS, st.integers(1, 300), st.integers(1, 20), st.integers(1, 40), st.integers(0, 99), st.booleans())
@settings(max_examples=60)
def test_native_and_numpy_name_the_same_rows(width, rows, probes, count, seed, some):
    index = made(clustered(seed, rows, width), first=7)
    q_QM = clustered(seed + 1, 3, width)
    live_N = np.random.default_rng(seed).random(rows + 7) < 0.5 if some else None
    native = index.candidates(q_QM, count, probes, live_N)
    for q_M, found_C in zip(q_QM, native, strict=True):
        mine = index._named(q_M, count, probes, live_N)
        named = set(found_C[found_C >= 0].tolist())
        assert len(named) == len(mine) == (found_C >= 0).sum()
        assert live_N is None or live_N[list(named)].all()
        # Sums run in another order: of two that are equally far either may be named.
        assert len(named ^ set(mine.tolist())) <= 2 + len(mine) // 20


@needs_kernels
@given(WIDTHS, st.integers(1, 60), st.integers(0, 99))
@settings(max_examples=30)
def test_native_distances_are_those_of_the_keys(width, rows, seed):
    draw = np.random.default_rng(seed)
    parts = [draw.standard_normal((n, width)).astype(np.float16) for n in (rows, 1, 5)]
    at_C = draw.integers(-1, rows + 6, 33)
    q_M, found_C = draw.standard_normal(width).astype(np.float32), np.empty(33, np.float32)
    addresses = list(zip((0, rows, rows + 1), (part.ctypes.data for part in parts), strict=True))
    for isa in kernels().isas():
        kernels().distances(q_M.ctypes.data, 1, width, at_C.ctypes.data, 33, addresses, found_C.ctypes.data, isa)
        wanted_C = ((np.concatenate(parts).astype(np.float64)[at_C] - q_M) ** 2).sum(1)
        assert np.allclose(found_C, np.where(at_C < 0, np.inf, wanted_C), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_kernels), False])
def test_what_is_near_is_named(native, monkeypatch):
    if not native:
        monkeypatch.setattr(approximate, "kernels", lambda: None)
    keys_NM = clustered(3, 4000, 96, centres=40)
    q_QM = keys_NM[::200] + 0.3 * clustered(4, 20, 96)
    found_QC = made(keys_NM).candidates(q_QM, 100, 16)
    best_Qk = np.argsort(((q_QM[:, None] - keys_NM) ** 2).sum(-1), 1)[:, :10]
    assert np.mean([np.isin(best, found).mean() for best, found in zip(best_Qk, found_QC, strict=True)]) > 0.9


@given(st.lists(st.integers(0, 80), min_size=1, max_size=4), st.integers(0, 9))
@settings(max_examples=15)
def test_added_some_at_a_time_is_added_at_once(sizes, seed):
    keys_NM = clustered(seed, 100 + sum(sizes), 24)
    index = at_once = train(keys_NM[:100], 100)
    first = 0
    for size in (100, *sizes):
        index = extend(index, [keys_NM[first : first + size]], first)
        first += size
    at_once = extend(at_once, [keys_NM], 0)
    for part in fields(Index):
        assert np.array_equal(getattr(index, part.name), getattr(at_once, part.name)), part.name
    of_N = np.repeat(np.arange(len(index.starts_L) - 1), np.diff(index.starts_L))
    assert np.array_equal(of_N[np.argsort(index.rows_N)], nearest(keys_NM, index.centres_LM))


def test_a_damaged_index_is_said_to_be(tmp_path):
    index = made(clustered(0, 200, 20))
    write(index, tmp_path / "whole")
    listing = Listing(20, index="000002.lists", indexed=200)

    def opened() -> Index:
        return sound_index(tmp_path, listing)

    def placed() -> None:
        shutil.rmtree(tmp_path / "000002.lists", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "000002.lists")

    placed()
    assert all(np.array_equal(getattr(opened(), p.name), getattr(index, p.name)) for p in fields(Index))
    for part in fields(Index):
        for damaged in (b"", b"x", (tmp_path / "whole" / f"{part.name}.npy").read_bytes()[:-9], None):
            placed()
            path = tmp_path / "000002.lists" / f"{part.name}.npy"
            path.unlink() if damaged is None else path.write_bytes(damaged)
            with pytest.raises(BookFault, match=r"000002.lists"):
                opened()
    starts_L = index.starts_L.copy()
    starts_L[1] = 1 << 40
    rows_N = index.rows_N.copy()
    rows_N[5] = 200
    for change in (
        {"starts_L": starts_L},
        {"rows_N": rows_N},
        {"rows_N": -rows_N},
        {"rows_N": rows_N[:-1]},
        {"starts_L": starts_L[:0]},
    ):
        shutil.rmtree(tmp_path / "000002.lists")
        (tmp_path / "000002.lists").mkdir()
        for part in fields(Index):
            np.save(tmp_path / "000002.lists" / f"{part.name}.npy", change.get(part.name, getattr(index, part.name)))
        with pytest.raises(BookFault, match="damaged"):
            opened()
    placed()
    for wrong in (replace(listing, width=21), replace(listing, indexed=199), replace(listing, indexed=201)):
        with pytest.raises(BookFault, match="damaged"):
            sound_index(tmp_path, wrong)


def test_a_store_is_searched_without_the_kernels_as_with_them(tmp_path, monkeypatch):
    monkeypatch.setattr(tending, "EXACT", 300)
    keys_NM = clustered(1, 900, 20)
    writer = SegmentWriter(tmp_path, 20)
    writer.append(("d", "h"), 0, 900, keys_NM, np.arange(900), np.arange(900))
    tending.tend(writer)
    writer.append(("e", "h"), 0, 50, keys_NM[:50] + 0.1, np.arange(50), np.arange(50))
    tending.tend(writer)
    q_QM = clustered(2, 6, 20)
    one = Neighbours(tmp_path).search(q_QM, 9)
    for module in (approximate, neighbours):
        monkeypatch.setattr(module, "kernels", lambda: None)
    other = Neighbours(tmp_path).search(q_QM, 9)
    assert np.allclose(one.distances_Qk, other.distances_Qk, rtol=1e-4)
    assert (one.rows_Qk == other.rows_Qk).mean() > 0.95
