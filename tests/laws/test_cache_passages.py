"""Law 5: a branch from the passage cache equals the same branch computed afresh, bit for bit."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache import stored
from openbook.lm.cache.make import CacheSpec
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.model import LanguageModel
from openbook.mix.prompt import Framing
from openbook.mix.reading import make_of
from openbook.mix.source import Label
from openbook.mix.sources.branches import CLOSED_BOOK, Branch, Branches

PASSAGES = ["A comet.", "A bridge over the river, 212 metres long. " * 3, "Moss."]


@pytest.fixture(autouse=True)
def a_disk_with_room(monkeypatch):
    monkeypatch.setattr(stored, "SPARE_BYTES", 0)


def models(tiny: LanguageModel, dtype: torch.dtype, codec: str) -> LanguageModel:
    decoder = copy.deepcopy(tiny.runner.decoder).to(dtype)
    return replace(tiny, runner=TorchRunner(decoder, CacheSpec(codec=codec)))


def ask(model: LanguageModel, store: PrefixStore | None, question: str = "How long?") -> list[torch.Tensor]:
    """Everything a mixture is told by the branches: the question's likelihood, and what comes next, twice."""
    rows = [*(Branch(Label(f"p{i}", "passage"), f"p{i}", (text,)) for i, text in enumerate(PASSAGES)), CLOSED_BOOK]
    read = Branches(model, Framing(model.tokenizer), rows, question, room=8, store=store)
    told = [torch.from_numpy(read.question_log_p_S.copy()), read.start().clone(), read.step(40).clone()]
    if store is not None:
        store.flush()
    return told


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("codec", ["raw", "int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_memory_from_disk_and_after_eviction(tiny_model, tmp_path, dtype, codec):
    model = models(tiny_model, dtype, codec)
    fresh, make = ask(model, None), make_of(model)
    in_memory = PrefixStore(1 << 24, tmp_path, 1 << 24, make)
    assert same(ask(model, in_memory), fresh)
    assert same(ask(model, in_memory), fresh)
    from_disk = PrefixStore(1 << 24, tmp_path, 1 << 24, make)
    assert same(ask(model, from_disk), fresh)
    assert from_disk._unwritten == {} and len(from_disk._held) == 4  # nothing was made again
    one_entry = max(prefix.nbytes for prefix in from_disk._held.values())
    for memory, disk in ((0, 0), (0, 1 << 24), (one_entry, 0), (one_entry, 2 * one_entry)):
        evicting = PrefixStore(memory, tmp_path / f"{memory}-{disk}", disk, make)
        assert all(same(ask(model, evicting), fresh) for _ in range(3))


@given(st.data())
@settings(max_examples=25)
def test_after_any_damage(tiny_model, tmp_path_factory, data):
    folder, make = tmp_path_factory.mktemp("kv"), make_of(tiny_model)
    fresh = ask(tiny_model, PrefixStore(0, folder, 1 << 24, make))
    for file in sorted(folder.glob("*/*")):
        damaged = bytearray(file.read_bytes())
        for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=3)):
            damaged[place] ^= data.draw(st.integers(1, 255))
        file.write_bytes(damaged[: data.draw(st.sampled_from([None, None, 70, 3]))])
    again = PrefixStore(0, folder, 1 << 24, make)
    assert same(ask(tiny_model, again), fresh)
    assert len(list(folder.glob("*/*"))) == 4
    assert same(ask(tiny_model, PrefixStore(0, folder, 1 << 24, make)), fresh)


def test_another_model_template_or_arithmetic_does_not_answer(tiny_model, tmp_path):
    """Files of one model, put under the names of another's, are computed anew."""
    ask(tiny_model, PrefixStore(0, tmp_path, 1 << 24, make_of(tiny_model)))
    torch.manual_seed(1)
    other = models(tiny_model, torch.float32, "raw")
    for weight in other.runner.decoder.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    other = replace(other, fingerprint="other-fp32")
    theirs = PrefixStore(0, tmp_path / "theirs", 1 << 24, make_of(other))
    fresh = ask(other, None)
    assert same(ask(other, theirs), fresh)
    ours = {file.name.split(".")[0]: file for file in tmp_path.glob("*/*.kv")}
    for file in (tmp_path / "theirs").glob("*/*.kv"):
        file.write_bytes(ours[file.name.split(".")[0]].read_bytes())
    assert same(ask(other, PrefixStore(0, tmp_path / "theirs", 1 << 24, make_of(other))), fresh)


def test_the_make_names_what_decides_the_bits(tiny_model):
    runner = copy.copy(tiny_model.runner)
    runner.arithmetic = "native-1-avx2"
    names = {
        make_of(model).identity([1, 2])
        for model in (
            tiny_model,
            replace(tiny_model, fingerprint="other"),
            replace(tiny_model, runner=runner),
            models(tiny_model, torch.bfloat16, "raw"),
            models(tiny_model, torch.float32, "int4"),
        )
    }
    assert len(names) == 5
    assert torch.__version__ in make_of(tiny_model).name


def test_what_must_be_read_is_told_while_it_is_read(tiny_model):
    """Of passages that are kept nothing is told; of none, nothing at all."""
    store, told = PrefixStore(1 << 24), []
    rows = [Branch(Label(f"p{i}", "passage"), f"p{i}", (text,)) for i, text in enumerate(PASSAGES)]

    def read(branches: list[Branch]) -> list[tuple[int, int, str]]:
        told.clear()
        framing = Framing(tiny_model.tokenizer)
        Branches(tiny_model, framing, branches, "How?", room=2, store=store, progress=lambda *said: told.append(said))
        return list(told)

    assert read(rows[:1]) == [(0, 1, "passages read"), (1, 1, "passages read")]
    assert read(rows) == [(0, 2, "passages read"), (1, 2, "passages read"), (2, 2, "passages read")]
    assert read(rows) == []
