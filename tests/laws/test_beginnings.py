"""What texts begin with, kept between them: no bit of a text depends on it, and what several want is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from threading import Thread
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_specs import needs_kernels
from test_cache import LAYOUTS
from test_native_exact import Made, models, run
from test_shared import Held, seated, side_by_side

from openbook.errors import Fault
from openbook.lm.backends.native import NativeRunner
from openbook.lm.backends.runner import CHUNK, FEW, Runner
from openbook.lm.backends.shared import Left, Seat, Shared
from openbook.lm.cache.beginnings import BLOCK, STRETCHES, Beginnings, Started, _cut, _names, reusable
from openbook.lm.cache.make import CacheSpec
from openbook.lm.cache.prefixes import joined
from openbook.lm.model import LanguageModel
from openbook.lm.rules import rule
from openbook.lm.spec import RopeSpec

ROOM, WRITTEN = 24, 5
LENGTHS = [1, 20, BLOCK, BLOCK + 1, BLOCK + FEW - 1, BLOCK + FEW, 2 * BLOCK, 200, 255]
LONG = [*LENGTHS, CHUNK, CHUNK + 3, CHUNK + BLOCK + 2, CHUNK + 200, 2 * CHUNK + 9]
PLENTY = 1 << 30
PATHS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=20), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def native(tiny_model: LanguageModel) -> NativeRunner:
    weights = tiny_model.runner.decoder.state_dict().items()  # type: ignore[attr-defined]
    return NativeRunner(tiny_model.spec, weights, precision="fp32", threads=1)


@st.composite
def texts(draw: Any, vocabulary: int, lengths: Sequence[int]) -> list[list[int]]:
    """Texts that begin as one before them does, for so many tokens, and go on in their own way."""
    made: list[list[int]] = []
    for number in range(draw(st.integers(1, 4))):
        length = draw(st.sampled_from(lengths))
        like = draw(st.sampled_from(made)) if made else []
        shared = draw(st.sampled_from([0, 1, BLOCK - 1, BLOCK, 100, 2 * BLOCK, CHUNK, len(like)]))
        begun = like[: min(shared, length)]
        made.append(begun + [(7 * i + 3 * number + i * i) % vocabulary for i in range(length - len(begun))])
    return made


def whole(made: Made) -> Made:
    """The same model without windows, in the layout that is chosen by itself."""
    spec, state, caching = made
    layers = tuple(replace(x, attention=replace(x.attention, window=None, pinned=0)) for x in spec.layers)
    return replace(spec, layers=layers), state, CacheSpec("auto", caching.codec)


def afresh(runner: Runner, text: Sequence[int]) -> Started:
    cache = runner.cache([None], len(text) + ROOM)
    return Started(cache, runner.read(torch.tensor([list(text)]), cache), 0)


def goes_on(runner: Runner, started: Started) -> list[torch.Tensor]:
    """All that comes of a text that was read: the scores, those of what is written after it, and its keys."""
    made, cache = [started.scores_1V], started.cache
    for _ in range(WRITTEN):
        made.append(runner.forward(made[-1].argmax(-1, keepdim=True), cache)[:, -1])
    return [*made, *(part for parts in cache.prefix(0).slots for part in parts)]


def same(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def held_law(runner: Runner, drawn: Sequence[Sequence[int]], budget: int) -> Beginnings:
    kept, seen = Beginnings(budget), list[Sequence[int]]()
    for text in drawn:
        started = kept.start(runner, text, ROOM)
        assert same(goes_on(runner, started), goes_on(runner, afresh(runner, text)))
        assert kept.nbytes <= budget and started.found % BLOCK == 0 and started.found < len(text)
        assert started.found <= max((alike(text, before) for before in seen), default=0)
        seen.append(text)
    assert kept.read_tokens + kept.found_tokens == sum(map(len, drawn))
    return kept


def alike(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@needs_kernels
@given(st.data(), models(), st.sampled_from([0, 1 << 16, PLENTY]))
@settings(max_examples=25)
def test_no_bit_depends_on_what_is_kept(data: st.DataObject, made: Made, budget: int) -> None:
    """Scores, what is written after, and keys; whatever is kept, of a model that may keep it."""
    runner = run(whole(made))
    assert reusable(runner)
    held_law(runner, data.draw(texts(runner.spec.vocabulary, LENGTHS)), budget)


@needs_kernels
@given(st.data(), models())
@settings(max_examples=10)
def test_where_it_would_depend_nothing_is_kept(data: st.DataObject, made: Made) -> None:
    """Windows and layouts of all kinds."""
    runner = run(made)
    kept = held_law(runner, data.draw(texts(runner.spec.vocabulary, LENGTHS)), PLENTY)
    assert reusable(runner) or not kept.nbytes + kept.found_tokens


@needs_kernels
@given(st.data(), st.sampled_from([1 << 17, PLENTY]))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_texts_of_several_pieces(native: NativeRunner, data: st.DataObject, budget: int) -> None:
    held_law(native, data.draw(texts(native.spec.vocabulary, LONG)), budget)


@pytest.mark.sweep
@needs_kernels
@given(st.data(), models(), st.sampled_from([1 << 16, PLENTY]))
@settings(max_examples=300)
def test_beginnings_swept(data: st.DataObject, made: Made, budget: int) -> None:
    runner = run(whole(made), threads=data.draw(st.integers(1, 3)))
    held_law(runner, data.draw(texts(runner.spec.vocabulary, LENGTHS)), budget)


@needs_kernels
@pytest.mark.parametrize("length", LONG)
@pytest.mark.parametrize("before", [BLOCK, 3 * BLOCK, CHUNK, CHUNK + BLOCK])
def test_wherever_a_text_goes_on_it_is_the_text(native: NativeRunner, length: int, before: int) -> None:
    kept, text = Beginnings(), [(5 * i) % 251 for i in range(length)]
    kept.start(native, [*text[:before], *[7] * FEW], ROOM)
    started = kept.start(native, text, ROOM)
    assert started.found <= before and (started.found > 0 or length < BLOCK + FEW)
    assert same(goes_on(native, started), goes_on(native, afresh(native, text)))


@needs_kernels
def test_a_block_is_found_after_what_it_was_read_after_only(native: NativeRunner) -> None:
    kept, block = Beginnings(), list(range(BLOCK))
    kept.start(native, [*[1] * BLOCK, *block, *[3] * FEW], ROOM)
    for begun, found in (([1] * BLOCK, 2 * BLOCK), ([2] * BLOCK, 0), ([1] * (BLOCK - 1), 0)):
        text = [*begun, *block, *[4] * FEW]
        assert kept.start(native, text, ROOM).found == found
        again = kept.start(native, text, ROOM)
        assert again.found >= BLOCK and same(goes_on(native, again), goes_on(native, afresh(native, text)))


@needs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", [None, 20, 1000])
def test_windows_and_chosen_layouts_keep_nothing(tiny_model: LanguageModel, layout: str, window: int | None) -> None:
    [first, *others] = tiny_model.spec.layers
    spec = replace(tiny_model.spec, layers=(replace(first, attention=replace(first.attention, window=window)), *others))
    weights = tiny_model.runner.decoder.state_dict().items()  # type: ignore[attr-defined]
    for kind in {layout, "auto"}:
        runner = NativeRunner(spec, weights, CacheSpec(kind), precision="fp32", threads=1)
        kept = held_law(runner, [list(range(200)), list(range(220))], PLENTY)
        assert bool(kept.found_tokens) == (kind == "auto" and window is None) == bool(kept.nbytes)


def test_blocks_are_cut_out_of_their_stretch(tiny_model: LanguageModel) -> None:
    made = tiny_model.runner.prefill(list(range(4 * BLOCK)))
    assert _cut(made, range(4)) is made
    cut = _cut(made, [1, 2])
    assert cut.length == 2 * BLOCK
    for [part], [whole] in zip(cut.slots, made.slots, strict=True):
        assert part.data_ptr() == whole[:, :, BLOCK:].data_ptr() and torch.equal(part, whole[:, :, BLOCK : 3 * BLOCK])


@needs_kernels
@pytest.mark.parametrize("length", LONG)
def test_what_was_read_is_found(native: NativeRunner, length: int) -> None:
    """All whole blocks before the last token, unless fewer than `FEW` tokens would be left that are not left anyway."""
    kept, text = Beginnings(), [(5 * i) % 251 for i in range(length)]
    assert kept.start(native, text, ROOM).found == 0
    blocks, alone = (length - 1) // BLOCK, (length - 1) % CHUNK + 1
    if length - blocks * BLOCK < FEW <= alone:
        blocks -= 1
    assert kept.start(native, text, ROOM).found == blocks * BLOCK


@needs_kernels
def test_rows_read_what_is_kept_where_it_lies(native: NativeRunner) -> None:
    kept, text = Beginnings(), list(range(250))
    first = kept.start(native, text, ROOM).cache
    one, other = kept.start(native, text, ROOM).cache, kept.start(native, [*text, 9], ROOM).cache
    per_token = first.nbytes // (len(text) + ROOM)
    assert kept.nbytes == 3 * BLOCK * per_token and one.nbytes == (len(text) - 3 * BLOCK + ROOM) * per_token
    [begun], [again] = one.prefixes, other.prefixes  # type: ignore[attr-defined]
    lies = [
        [part.data_ptr() for link in made.links for parts in link.slots for part in parts] for made in (begun, again)
    ]
    assert lies[0] == lies[1] and len(begun.links) == 1  # what was read at once lies in one piece
    many = native.cache([begun, None, begun.whole()], ROOM)
    scores = native.forward(torch.full((3, 1), 5), many)
    assert torch.equal(scores[0], scores[2]) and not torch.equal(scores[0], scores[1])


@needs_kernels
@given(PATHS, st.sampled_from([1, 2, 3, 5, 16, 24]))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_end_of_a_text_leaves_before_its_beginning(native: NativeRunner, paths: list[list[int]], room: int) -> None:
    """Texts of blocks: what is kept fits, and of no text there is a block without those before it."""
    one, before = Beginnings(), dict[bytes, bytes | None]()
    one.start(native, [0] * (BLOCK + FEW), 0)
    kept = Beginnings(room * one.nbytes)
    for path in paths:
        text = [kind for kind in path for _ in range(BLOCK)] + [9] * FEW
        before |= dict(pairwise([*reversed(_names(text)), None]))
        kept.start(native, text, 0)
        stretches = {id(place.stretch): place.stretch.prefix.nbytes for place in kept._held.values()}
        assert kept.nbytes == sum(stretches.values()) <= kept.budget
        assert all(before[name] in {None, *kept._held} for name in kept._held)
        fresh = Beginnings(kept.budget)
        fresh.start(native, text, 0)
        found, fits = fresh.start(native, text, 0).found // BLOCK, min(room, len(path))
        assert found == fits if room < 2 * STRETCHES or len(path) <= room else fits - room // STRETCHES < found <= fits


@needs_kernels
@given(st.data(), st.sampled_from([1 << 17, PLENTY]))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_in_company_as_alone(native: NativeRunner, data: st.DataObject, budget: int) -> None:
    drawn = data.draw(texts(native.spec.vocabulary, LENGTHS))
    drawn = [text for text in drawn for _ in range(2)]
    shared, kept = Shared(native, chunk=64), Beginnings(budget)
    works = [seated(shared, lambda seat, t=text: goes_on(seat, kept.start(seat, t, ROOM))) for text in drawn]
    for text, found in zip(drawn, side_by_side(works), strict=True):
        assert same(found, goes_on(native, afresh(native, text)))
    assert not kept._being_read


@needs_kernels
def test_what_several_want_at_once_is_read_once(native: NativeRunner) -> None:
    shared, kept, text = Shared(native), Beginnings(), list(range(250))
    side_by_side([seated(shared, lambda seat: kept.start(seat, text, ROOM)) for _ in range(5)])
    assert kept.stats() == {"read_tokens": 250 + 4 * 58, "found_tokens": 4 * 192, "kept_bytes": kept.nbytes}


@needs_kernels
def test_who_waits_for_one_that_fails_reads_by_itself(native: NativeRunner) -> None:
    shared, kept, text = Shared(native), Beginnings(), list(range(250))

    def fails(seat: Seat) -> None:
        kept.start(seat, [*text, 10_000], ROOM)

    with shared.seat() as seat, pytest.raises(Fault, match="vocabulary"):
        fails(seat)
    assert not kept._being_read and not kept._held
    found = side_by_side([seated(shared, lambda s: kept.start(s, text, ROOM)), *[seated(shared, fails)] * 3])
    assert [isinstance(made, Fault) for made in found] == [False, True, True, True]
    assert not kept._being_read and same(goes_on(native, found[0]), goes_on(native, afresh(native, text)))


def test_torch_keeps_nothing(tiny_model: LanguageModel) -> None:
    kept = held_law(tiny_model.runner, [list(range(200)), list(range(250))], PLENTY)
    assert kept.stats() == {"read_tokens": 450, "found_tokens": 0, "kept_bytes": 0}


@needs_kernels
@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_tables_that_follow_the_length_keep_nothing(native: NativeRunner, name: str) -> None:
    pairs = (1.0,) * 4
    stretched = {
        "dynamic": rule("dynamic", factor=3.0, original=12),
        "longrope": rule("longrope", short=pairs, long=pairs, original=12, table_factor=1.1),
    }[name]
    [first, *others] = native.spec.layers
    turned = replace(first, attention=replace(first.attention, rope=RopeSpec(scaling=stretched)))

    class Stretched:
        batch_invariant, caching, spec = True, native.caching, replace(native.spec, layers=(turned, *others))

    assert not reusable(Stretched())  # type: ignore[arg-type]


def test_a_text_in_stretches_is_the_text(tiny_model: LanguageModel) -> None:
    """In caches that hold their rows, too; and a row with windows does not begin with one."""
    runner = tiny_model.runner
    whole = runner.prefill(list(range(3 * BLOCK)))
    links = [whole._replace(length=BLOCK, slots=tuple(tuple(p[:, :, at : at + BLOCK] for p in s) for s in whole.slots))
             for at in range(0, whole.length, BLOCK)]  # fmt: skip
    made = joined(links)
    assert made is not None and made.length == whole.length and made.nbytes == whole.nbytes and joined([]) is None
    token = torch.tensor([[7]])
    for one, other in ((made, whole), (made.whole(), whole)):
        assert torch.equal(
            runner.forward(token, runner.cache([one], 1)), runner.forward(token, runner.cache([other], 1))
        )


@needs_kernels
def test_who_waits_for_another_can_be_called_away(native: NativeRunner) -> None:
    held, text = Held(native), list(range(250))
    shared, kept = Shared(held), Beginnings()  # type: ignore[arg-type]
    reads, waits = shared.seat(), shared.seat()
    first = Thread(target=lambda: kept.start(reads, text, ROOM))
    first.start()
    held.begun.wait()
    raised: list[BaseException] = []

    def second() -> None:
        try:
            kept.start(waits, text, ROOM)
        except Left as error:
            raised.append(error)

    gone = Thread(target=second)
    gone.start()
    waits.leave()
    gone.join()
    assert raised and not held.go.is_set()
    held.go.set()
    first.join()
    assert kept.stats()["read_tokens"] == len(text)
    for seat in (reads, waits):
        seat.__exit__()
