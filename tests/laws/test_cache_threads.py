"""A passage cache that several threads share: what they want is made once, held once, and never half written."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cache_prefixes import equal, make, small

from openbook.lm.cache import stored
from openbook.lm.cache.prefixes import Prefix, PrefixStore


@pytest.fixture(autouse=True, scope="module")
def a_disk_with_room():
    before, stored.SPARE_BYTES = stored.SPARE_BYTES, 0
    yield
    stored.SPARE_BYTES = before


def test_what_many_threads_want_is_made_once_and_held_once():
    """Also where the one who makes it fails: then the next does."""
    store, made, started = PrefixStore(1 << 20), [], threading.Event()

    def reading() -> Prefix:
        made.append(threading.get_ident())
        started.wait()
        if len(made) == 1:
            raise RuntimeError("stopped")
        return Prefix(3, "raw", ((torch.zeros(2, 1, 3, 4),),))

    found: list[Prefix | str] = []

    def want() -> None:
        try:
            found.append(store.made("a", [1, 2, 3], reading))
        except RuntimeError as error:
            found.append(str(error))

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    started.set()
    for thread in threads:
        thread.join()
    kept = [prefix for prefix in found if isinstance(prefix, Prefix)]
    assert len(made) == 2 and found.count("stopped") == 1 and len(kept) == 7
    assert all(prefix is kept[0] for prefix in kept) and store.get("a", [1, 2, 3]) is kept[0]


class Gone(Exception):
    """Nobody wants it any more."""


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.booleans())
@settings(max_examples=10, deadline=None)
def test_who_is_called_away_waits_no_longer_and_the_others_are_served(gone: list[bool], fails: bool) -> None:
    """Some of those that wait for one who reads are called away: they leave while it still reads."""
    store, begun, go = PrefixStore(1 << 20), threading.Event(), threading.Event()
    prefix = Prefix(3, "raw", ((torch.zeros(2, 1, 3, 4),),))
    made: list[int] = []
    left, found = [threading.Event() for _ in gone], [None] * len(gone)

    def reading() -> Prefix:
        made.append(threading.get_ident())
        begun.set()
        if len(made) == 1:
            go.wait()
            if fails:
                raise RuntimeError("stopped")
        return prefix

    def first() -> None:
        with contextlib.suppress(RuntimeError):
            store.made("a", [1, 2, 3], reading)

    def want(i: int) -> None:
        def stay() -> None:
            if gone[i]:
                raise Gone

        try:
            found[i] = store.heeding(stay).made("a", [1, 2, 3], reading)
        except Gone:
            left[i].set()

    maker = threading.Thread(target=first)
    maker.start()
    begun.wait()
    threads = [threading.Thread(target=want, args=(i,)) for i in range(len(gone))]
    for thread in threads:
        thread.start()
    for i in range(len(gone)):
        if gone[i]:
            assert left[i].wait(60)  # while the one who reads has not come to its end
    assert len(made) == 1
    go.set()
    for thread in (maker, *threads):
        thread.join()
    stayed = [prefix for prefix, away in zip(found, gone, strict=True) if not away]
    assert all(kept is prefix for kept in stayed) and not store._making
    assert len(made) == 1 + (fails and bool(stayed))


def test_a_store_that_heeds_is_the_same_store() -> None:
    """What is put, counted, and left off through it is so in the store itself."""
    runner = small()
    with tempfile.TemporaryDirectory() as folder:
        store = PrefixStore(1 << 20, Path(folder), 1 << 24, make(runner))
        view, prefix = store.heeding(lambda: None), runner.prefill([1, 2, 3])
        view.put("a", [1, 2, 3], prefix)
        assert store.get("a", [1, 2, 3]) is prefix and store._bytes == view._bytes == prefix.nbytes
        view.flush()
        assert store.on_disk("a", [1, 2, 3]) and not store._unwritten
        store.leave_disk()
        assert view.disk is None and view.budget == store.budget


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=20, max_size=60))
@settings(max_examples=10)
def test_threads_share_a_store(steps):
    """Whatever several threads put, look for and flush, all is found or made again, and the bytes stay counted."""
    with tempfile.TemporaryDirectory() as folder:
        runner = small()
        texts = [[n, n + 1, n + 2] for n in range(6)]
        prefixes = [runner.prefill(text) for text in texts]
        store = PrefixStore(3 * prefixes[0].nbytes, Path(folder), 1 << 24, make(runner))
        errors: list[BaseException] = []

        def work(mine) -> None:
            try:
                for n, flush in mine:
                    found = store.made(f"t{n}", texts[n], lambda n=n: prefixes[n])
                    assert equal(found, prefixes[n])
                    if flush:
                        store.flush()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(steps[i::4],)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert store._bytes == sum(p.nbytes for p in store._held.values()) <= store.budget
        store.flush()
        assert all(store.on_disk(f"t{n}", texts[n]) for n, _ in steps)
        store.leave_disk()
        store.put("late", [9, 9], prefixes[0])
        store.flush()
        assert not any("late" in entry.name for entry in Path(folder).rglob("*"))
