"""Law 1: cached = uncached = any chunking of the prefill = token by token = restored from a stored prefix."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from openbook.errors import Fault
from openbook.lm.attention import visible
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.dense import DenseCache, Prefix
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.decoder import Decoder
from openbook.lm.rules import rule
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec, SpecError

VOCABULARY = 61


@st.composite
def attentions(draw):
    kv_heads = draw(st.sampled_from([1, 2]))
    return AttentionSpec(
        heads=kv_heads * draw(st.sampled_from([1, 2, 3])),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([4, 8])),
        window=draw(st.sampled_from([None, 1, 3, 5, 8, 20])),
        rope=draw(
            st.sampled_from(
                [None, RopeSpec(), RopeSpec(500.0, rule("llama3", factor=8.0, low=1.0, high=4.0, original=16))]
            )
        ),
        qkv_bias=draw(st.booleans()),
    )


@st.composite
def decoders(draw):
    """A small decoder whose layers differ in window, and some of which read an earlier layer's keys."""
    base = draw(attentions())
    layers = []
    for index in range(draw(st.integers(1, 4))):
        window = draw(st.sampled_from([base.window, None, 2, 6]))
        producers = [i for i, layer in enumerate(layers) if layer.attention.kv_from is None]
        source = draw(st.sampled_from([None, *producers])) if index else None
        attention = AttentionSpec(
            base.heads, base.kv_heads, base.head_dim, window=window, rope=base.rope, qkv_bias=base.qkv_bias,
            kv_from=source,
        )  # fmt: skip
        layers.append(LayerSpec(attention, FeedForwardSpec(24, gated=draw(st.booleans()))))
    spec = ModelSpec(VOCABULARY, 16, tuple(layers), 64, tied=draw(st.booleans()))
    torch.manual_seed(draw(st.integers(0, 9)))
    return TorchRunner(Decoder(spec))


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (batch, length))


@given(decoders(), st.integers(1, 3), st.lists(st.integers(1, 7), min_size=1, max_size=5))
@settings(deadline=None, max_examples=40)
def test_any_chunking_gives_the_same_logits(runner, batch, chunks):
    text = tokens(batch, sum(chunks))
    whole = runner.forward(text)
    cache = runner.cache([None] * batch, room=text.shape[1])
    ends = list(itertools.accumulate(chunks))
    parts = [runner.forward(text[:, a:b], cache) for a, b in zip([0, *ends], ends, strict=False)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=1e-4)


@given(decoders(), st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_rows_with_prefixes_of_any_length_equal_each_row_alone(runner, lengths, more):
    """A batch of branches with stored prefixes: every row goes on as if it were alone and never cached."""
    texts = [tokens(1, n + more)[0] for n in lengths]
    prefixes = [runner.prefill(text[:n].tolist()) if n else None for text, n in zip(texts, lengths, strict=True)]
    cache = runner.cache(prefixes, room=more)
    together = runner.forward(torch.stack([text[n:] for text, n in zip(texts, lengths, strict=True)]), cache)
    for row, (text, n) in enumerate(zip(texts, lengths, strict=True)):
        torch.testing.assert_close(together[row], runner.forward(text[None])[0, n:], atol=1e-4, rtol=1e-4)


@given(decoders(), st.permutations(range(4)), st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_selected_rows_go_on_as_before(runner, order, count):
    rows = order[:count]
    text = tokens(4, 9)
    cache = runner.cache([None] * 4, room=9)
    runner.forward(text[:, :5], cache)
    cache.select(rows)
    torch.testing.assert_close(
        runner.forward(text[rows, 5:], cache), runner.forward(text)[rows, 5:], atol=1e-4, rtol=1e-4
    )


@given(decoders(), st.integers(1, 12))
@settings(deadline=None, max_examples=20)
def test_a_prefix_from_disk_is_the_prefix_that_was_kept(tmp_path_factory, runner, length):
    folder = tmp_path_factory.mktemp("kv")
    text = tokens(1, length)[0].tolist()
    made = runner.prefill(text)
    store = PrefixStore(1 << 20, folder, 1 << 20)
    store.put("p", text, made)
    store.flush()
    found = PrefixStore(1 << 20, folder, 1 << 20).get("p", text)
    assert found is not None
    assert all(torch.equal(a, b) for a, b in zip(made.slots, found.slots, strict=True))
    assert PrefixStore(1 << 20, folder, 1 << 20).get("p", [*text, 1]) is None


def small() -> TorchRunner:
    layer = LayerSpec(AttentionSpec(2, 1, 4, rope=RopeSpec()), FeedForwardSpec(8))
    return TorchRunner(Decoder(ModelSpec(VOCABULARY, 8, (layer,), 64)))


def test_a_store_keeps_to_its_budgets(tmp_path):
    runner = small()
    texts = [tokens(1, 10)[0].tolist() for _ in range(6)]
    made = [runner.prefill(text) for text in texts]
    store = PrefixStore(2 * made[0].nbytes, tmp_path, 3000)
    for i, (text, prefix) in enumerate(zip(texts, made, strict=True)):
        store.put(f"p{i}", text, prefix)
    store.flush()
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) <= 3000
    assert store.get("p5", texts[5]) is made[5]
    assert PrefixStore(1 << 20).get("p5", texts[5]) is None


def test_a_damaged_entry_is_made_again_not_believed(tmp_path):
    runner = small()
    text = tokens(1, 10)[0].tolist()
    store = PrefixStore(1 << 20, tmp_path, 1 << 20)
    store.put("p", text, runner.prefill(text))
    store.flush()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert PrefixStore(1 << 20, tmp_path, 1 << 20).get("p", text) is None


@pytest.mark.parametrize("what", ["heads", "slots", "more", "none", "flat", "kind", "nan", "narrow"])
def test_an_entry_of_the_wrong_make_is_not_believed(tmp_path, what):
    """Whoever can write a book's folder can write anything there."""
    runner = small()
    text = tokens(1, 6)[0].tolist()
    good = runner.prefill(text)
    (slot,) = good.slots
    wrong = {
        "heads": (slot.repeat(1, 2, 1, 1),),
        "slots": (slot, slot.clone()),
        "more": (torch.cat((slot, slot), 2),),
        "none": (),
        "flat": (slot.flatten(),),
        "kind": (slot.to(torch.int8),),
        "nan": (slot * float("nan"),),
        "narrow": (slot[..., :1].contiguous(),),
    }[what]
    store = PrefixStore(1 << 20, tmp_path, 1 << 20)
    store.put("p", text, Prefix(wrong) if what != "none" else good)
    store.flush()
    if what == "none":
        save_file({"x": torch.zeros(1)}, next(tmp_path.iterdir()))
    fresh = PrefixStore(1 << 20, tmp_path, 1 << 20, accepts=lambda p: p.fits(runner.spec, runner.dtype))
    assert fresh.get("p", text) is None


def test_a_folder_that_is_a_link_is_left_alone(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "letter.txt").write_text("dear")
    (tmp_path / "kv").symlink_to(tmp_path / "elsewhere")
    runner = small()
    text = tokens(1, 6)[0].tolist()
    for folder in (tmp_path / "kv", tmp_path / "kv" / "model"):
        store = PrefixStore(1 << 20, folder, 1)
        store.put("p", text, runner.prefill(text))
        store.flush()
    plain = PrefixStore(1 << 20, tmp_path / "elsewhere", 1)
    plain.put("p", text, runner.prefill(text))
    plain.flush()
    assert [f.name for f in (tmp_path / "elsewhere").iterdir()] == ["letter.txt"]


def test_what_waits_for_the_disk_is_bounded_too(tmp_path):
    runner = small()
    texts = [tokens(1, 10)[0].tolist() for _ in range(6)]
    made = [runner.prefill(text) for text in texts]
    store = PrefixStore(made[0].nbytes, tmp_path, 1 << 20)
    for i, (text, prefix) in enumerate(zip(texts, made, strict=True)):
        store.put(f"p{i}", text, prefix)
    assert len(list(tmp_path.iterdir())) >= 4  # written before anybody asked


def test_the_window_counts_the_query_itself():
    q = torch.tensor([[4]])
    k = torch.tensor([[0, 1, 2, 3, 4, 5, -1]])
    seen = visible(q, k, AttentionSpec(1, 1, 2, window=3))[0, 0].tolist()
    assert seen == [False, False, True, True, True, False, False]


def test_a_full_context_is_a_fault_not_an_eviction():
    runner = small()
    cache = runner.cache([None], room=4)
    with pytest.raises(Fault, match="context is full"):
        runner.forward(tokens(1, 5), cache)


def test_kv_bytes_by_formula_are_the_bytes_allocated():
    layer = LayerSpec(AttentionSpec(9, 3, 64), FeedForwardSpec(8))
    spec = ModelSpec(VOCABULARY, 32, (layer,) * 30, 64)
    assert spec.kv_bytes_per_token(2) == 23_040  # SmolLM2-135M in bf16 (MECHANISMS)
    cache = DenseCache(spec, 2, 10, torch.bfloat16, torch.device("cpu"))
    assert cache.nbytes == 2 * 10 * spec.kv_bytes_per_token(2)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: AttentionSpec(9, 2, 64), "must divide heads"),
        (lambda: AttentionSpec(2, 2, 5, rope=RopeSpec()), "even head_dim"),
        (lambda: AttentionSpec(2, 2, 4, window=0), "counts the query"),
        (
            lambda: ModelSpec(
                8, 8, (LayerSpec(AttentionSpec(2, 2, 4, kv_from=0), FeedForwardSpec(8)),), 8
            ),
            "earlier layer",
        ),
        (
            lambda: ModelSpec(8, 8, (LayerSpec(AttentionSpec(2, 2, 4, causal=False), FeedForwardSpec(8)),), 8),
            "causal",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_remedy(wrong, says):
    with pytest.raises(SpecError, match=says):
        wrong()
