"""Each recipe: what is written is read back; what is read is what the definition says; all that is wrong is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.rules import rule
from openbook.lm.spec import (
    AttentionSpec,
    ClassifierSpec,
    ExpertsSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelSpec,
    NormSpec,
    QKNormSpec,
    RopeSpec,
    Seq2SeqSpec,
)
from openbook.lm.stacks import build
from openbook.lm.weights.checkpoint import Checkpoint
from openbook.lm.weights.matching import collapsed, match
from openbook.lm.weights.names import LLAMA, NameTable, parameters, write
from openbook.lm.weights.recipes import (
    GATE_UP,
    QKV,
    Either,
    Grouped,
    Interleaved,
    Leading,
    PerExpert,
    Rows,
    Transposed,
    Value,
    fused,
)

H, K, D, M, E, W, V = 4, 2, 6, 8, 3, 5, 11
HERE = Path("model")
EXPERTS = ExpertsSpec(E, 2, FeedForwardSpec(W))
UP, GATE, DOWN = (f"layers.{{i}}.feed_forward.{part}" for part in ("up", "gate", "down"))


def spec(
    feed_forward: FeedForwardSpec | ExpertsSpec = FeedForwardSpec(W, bias=True),  # noqa: B008 - frozen
    kv_heads: int = K,
    layers: int = 2,
    **changes: Any,
) -> ModelSpec:
    attention = AttentionSpec(H, kv_heads, D, rope=RopeSpec(), qkv_bias=True, sinks=True)
    return ModelSpec(V, M, (LayerSpec(attention, feed_forward),) * layers, 16, **changes)


def table(modules: Mapping[str, Value], **more: Any) -> NameTable:
    """Llama's, with some of it otherwise."""
    tensors = {"layers.{i}.attention.sinks": "layers.{i}.self_attn.sinks", **more.pop("tensors", {})}
    return NameTable(LLAMA.modules | dict(modules), prefixes=LLAMA.prefixes, tensors=tensors, **more)


MOE: dict[str, Value] = {"layers.{i}.feed_forward.router": "layers.{i}.mlp.gate"}
PER_EXPERT: dict[str, Value] = {
    UP: PerExpert("layers.{i}.mlp.experts.{e}.up_proj.weight"),
    GATE: PerExpert("layers.{i}.mlp.experts.{e}.gate_proj.weight"),
    DOWN: PerExpert("layers.{i}.mlp.experts.{e}.down_proj.weight"),
}
BANKS: dict[str, Value] = {
    **fused(Rows("layers.{i}.mlp.experts.gate_up_proj", GATE_UP, dim=1), GATE_UP),
    DOWN: "layers.{i}.mlp.experts.down_proj",
}
EITHER: dict[str, Value] = {name: Either(PER_EXPERT[name], BANKS[name]) for name in PER_EXPERT}
QKV_ROWS = Rows("layers.{i}.self_attn.qkv_proj", QKV)
CASES: dict[str, tuple[ModelSpec, NameTable]] = {
    "names alone": (spec(), table({})),
    "rows": (spec(), table({**fused(QKV_ROWS, QKV), **fused(Rows("layers.{i}.mlp.gu", GATE_UP), GATE_UP)})),
    "transposed": (spec(), table({"layers.{i}.attention.out": Transposed("layers.{i}.c_proj")})),
    "transposed rows": (spec(kv_heads=H), table(fused(Transposed(Rows("h.{i}.c_attn", QKV)), QKV))),
    "grouped": (spec(), table(fused(Grouped("h.{i}.query_key_value"), QKV))),
    "grouped, one": (spec(kv_heads=1), table(fused(Grouped("h.{i}.query_key_value"), QKV))),
    "grouped, each": (spec(kv_heads=H), table(fused(Grouped("h.{i}.query_key_value"), QKV))),
    "interleaved": (spec(), table({f"layers.{{i}}.{part}": Interleaved(f"blk.{{i}}.{part}") for part in QKV[:2]})),
    "an expert a tensor": (spec(EXPERTS), table(MOE, tensors=PER_EXPERT)),
    "banks": (spec(EXPERTS), table(MOE, tensors=BANKS)),
    "either": (spec(EXPERTS), table(MOE, tensors=EITHER)),
    "leading": (spec(head_bias=True), table({}, tensors={"head.bias": Leading("final_logits_bias")})),
    "a head of its own": (spec(tied=False), table({})),
}


def random_state(model: ModelSpec | Seq2SeqSpec, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw) for name, shape in parameters(model).items()}


def loaded(model: ModelSpec | Seq2SeqSpec, names: NameTable, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    made = match(model, names, {name: tuple(tensor.shape) for name, tensor in stored.items()}, HERE)
    return {ours: each.of(stored.__getitem__) for ours, each in made.items()}


def assert_equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    assert list(left) == list(right)
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_is_read_back(case: str) -> None:
    model, names = CASES[case]
    state = random_state(model)
    stored = dict(write(model, names, state.items()))
    assert_equal(loaded(model, names, stored), state)
    assert sum(t.numel() for t in stored.values()) == sum(t.numel() for t in state.values())
    for ours, tensor in loaded(model, names, stored).items():
        assert tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes, ours


def test_rows_follow_one_another() -> None:
    model, names = CASES["rows"]
    state = random_state(model)
    stored = dict(write(model, names, state.items()))
    qkv = stored["model.layers.1.self_attn.qkv_proj.weight"]
    assert torch.equal(qkv, torch.cat([state[f"layers.1.{part}.weight"] for part in QKV]))
    assert torch.equal(stored["model.layers.0.mlp.gu.bias"][W:], state["layers.0.feed_forward.up.bias"])


def test_a_conv1d_is_in_by_out() -> None:
    model, names = CASES["transposed rows"]
    state = random_state(model)
    stored = dict(write(model, names, state.items()))
    x, part = torch.randn(M), "layers.1.key_value.key"
    ours = state[f"{part}.weight"] @ x + state[f"{part}.bias"]
    theirs = x @ stored["model.h.1.c_attn.weight"] + stored["model.h.1.c_attn.bias"]
    torch.testing.assert_close(theirs[H * D : 2 * H * D], ours)


@pytest.mark.parametrize("kv_heads", [1, K, H])
def test_falcons_rows_are_by_group(kv_heads: int) -> None:
    model = spec(kv_heads=kv_heads, layers=1)
    G, names = H // kv_heads, CASES["grouped"][1]
    rows = torch.arange(kv_heads * (G + 2) * D).float()
    state = {name: torch.zeros(shape) for name, shape in parameters(model).items()}
    stored = dict(write(model, names, state.items()))
    read = loaded(model, names, stored | {"model.h.0.query_key_value.bias": rows})
    heads = rows.view(kv_heads, G + 2, D)
    for kv in range(kv_heads):
        at = slice(kv * D, (kv + 1) * D)
        assert torch.equal(read["layers.0.key_value.key.bias"][at], heads[kv, G])
        assert torch.equal(read["layers.0.key_value.value.bias"][at], heads[kv, G + 1])
        for g in range(G):
            head = kv * G + g
            assert torch.equal(read["layers.0.attention.query.bias"][head * D : (head + 1) * D], heads[kv, g])


def test_pairs_become_halves() -> None:
    model, names = CASES["interleaved"]
    state = random_state(model)
    stored = dict(write(model, names, state.items()))
    ours, theirs = state["layers.0.key_value.key.weight"], stored["model.blk.0.key_value.key.weight"]
    for head in range(K):
        for pair in range(D // 2):
            assert torch.equal(theirs[head * D + 2 * pair], ours[head * D + pair])
            assert torch.equal(theirs[head * D + 2 * pair + 1], ours[head * D + D // 2 + pair])


def test_either_layout_of_experts_is_read() -> None:
    model, either = CASES["either"]
    state = random_state(model)
    for layout in ("an expert a tensor", "banks"):
        stored = dict(write(model, CASES[layout][1], state.items()))
        assert_equal(loaded(model, either, stored), state)
    assert "model.layers.1.mlp.experts.gate_up_proj" in stored


@pytest.mark.parametrize("case", ["rows", "an expert a tensor", "grouped"])
def test_only_what_is_needed_together_waits(case: str) -> None:
    model, names = CASES[case]
    seen: list[str] = []

    def state() -> Any:
        for name, tensor in random_state(model).items():
            seen.append(name)
            yield name, tensor

    latest = [(name, len(seen)) for name, _ in write(model, names, state())]
    assert [at for _, at in latest] == sorted(at for _, at in latest) and len({at for _, at in latest}) > 4


def test_what_has_no_name_is_said_on_writing_and_on_reading() -> None:
    model = spec(EXPERTS)
    with pytest.raises(Fault, match=r"no tensor for layers\.0\.feed_forward\.router\.weight"):
        list(write(model, table({}), random_state(model).items()))
    with pytest.raises(Fault, match=r"tensors \(.*layers\.\{0-1\}\.feed_forward\.router\.weight.*\) are missing"):
        match(model, table({}), {}, HERE)
    rows, state = CASES["rows"], random_state(CASES["rows"][0])
    with pytest.raises(Fault, match=r"layers\.0\.attention\.query\.bias.* stand alone"):
        list(write(*rows, ((n, t) for n, t in state.items() if "0.key_value.value" not in n)))


def test_a_shared_embedding_is_read_once_and_written_once() -> None:
    plain = AttentionSpec(2, 2, 4, causal=False)
    inner, layer = FeedForwardSpec(W), LayerSpec(plain, FeedForwardSpec(W))
    encoder = ModelSpec(V, M, (layer,), 16, head=False)
    decoder = ModelSpec(V, M, (LayerSpec(AttentionSpec(2, 2, 4), inner, cross=plain),), 16, memory_width=M)
    model = Seq2SeqSpec(encoder, decoder, 0)
    state = random_state(model)
    state["decoder.embedding.weight"] = state["encoder.embedding.weight"]
    from openbook.lm.weights.families.own import OWN

    stored = dict(write(model, OWN, state.items()))
    assert "decoder.embedding.weight" not in stored
    read = loaded(model, OWN, stored)
    assert_equal(read, state)
    assert read["decoder.embedding.weight"].data_ptr() == read["encoder.embedding.weight"].data_ptr()


NORMS = [NormSpec(), NormSpec("layer"), NormSpec("layer", bias=False), NormSpec(offset=1.0)]


@st.composite
def models(draw: st.DrawFn) -> ModelSpec | Seq2SeqSpec:
    """Specs that switch on every parameter there can be."""
    flag, norm = st.booleans(), draw(st.sampled_from(NORMS))
    kv_heads = draw(st.sampled_from([1, 2, 4]))
    encodes, seq2seq = draw(flag), draw(flag)
    over: Any = draw(st.sampled_from(["head", "projection"]))
    bias = draw(st.sampled_from([None, rule("alibi"), rule("relative", buckets=8, both_ways=True)]))

    def attention(causal: bool, **more: Any) -> AttentionSpec:
        return AttentionSpec(
            4, kv_heads, 6, causal, sinks=draw(flag), qkv_bias=draw(flag), out_bias=draw(flag),
            qk_norm=QKNormSpec(norm, over) if draw(flag) else None, **more,
        )  # fmt: skip

    experts = ExpertsSpec(
        3, 2, FeedForwardSpec(W, gated=draw(flag)), balance_bias=draw(flag),
        shared=FeedForwardSpec(7, gated=draw(flag)), shared_gate=draw(flag),
    )  # fmt: skip
    noisy = ExpertsSpec(3, 2, FeedForwardSpec(W), routing="noisy")
    inner: Any = draw(st.sampled_from([FeedForwardSpec(W, bias=True), FeedForwardSpec(W, gated=False), experts, noisy]))
    places = ["pre", "post"] if seq2seq else ["pre", "post", "sandwich", "parallel", "parallel_one_norm"]
    place: Any = draw(st.sampled_from(places))

    def stack(causal: bool, cross: bool) -> ModelSpec:
        first = LayerSpec(attention(causal, bias=bias), inner, norm, place, attention(False) if cross else None)
        reader = LayerSpec(
            AttentionSpec(4, kv_heads, 6, causal, kv_from=0, qk_norm=first.attention.qk_norm), inner, norm, place,
            first.cross,
        )  # fmt: skip
        classifier = ClassifierSpec(("a", "b", "c")) if not causal and not seq2seq and draw(flag) else None
        return ModelSpec(
            V, M, (first, reader), 16, head=causal, tied=draw(flag), head_bias=causal and draw(flag),
            positions=draw(st.sampled_from([None, "learned"])), token_types=draw(st.sampled_from([0, 2])),
            embedding_norm=norm if draw(flag) else None, final_norm=norm if draw(flag) else None,
            memory_width=M if cross else None, classifier=classifier,
        )  # fmt: skip

    return Seq2SeqSpec(stack(False, False), stack(True, True), 0) if seq2seq else stack(not encodes, False)


@given(model=models())
@settings(max_examples=60, deadline=None)
def test_parameters_are_those_of_the_module(model: ModelSpec | Seq2SeqSpec) -> None:
    with torch.device("meta"):
        built = build(model)
    assert {n: tuple(t.shape) for n, t in built.state_dict().items()} == parameters(model)


def test_all_that_is_wrong_is_said_at_once() -> None:
    model, names = CASES["rows"]
    model = spec(layers=12)
    shapes = {name: tuple(tensor.shape) for name, tensor in write(model, names, random_state(model).items())}
    for layer in (3, 4, 5, 9):
        del shapes[f"model.layers.{layer}.self_attn.qkv_proj.weight"]
        shapes[f"model.layers.{layer}.mlp.gu.weight"] = (7, 9)
    shapes["model.norm.weight"] = (1,) * 3000
    shapes |= {"extra": (1,), "model.layers.7.more.weight": (2,), "x" * 10_000: (1,)}
    with pytest.raises(Fault) as caught:
        match(model, names, shapes, HERE)
    said = str(caught.value)
    assert said.startswith(
        "model: 4 tensors (model.layers.{3-5,9}.self_attn.qkv_proj.weight) are missing; "
        "4 tensors (model.layers.{3-5,9}.mlp.gu.weight) are of shape [7, 9], but the configuration says [10, 8]; "
        "tensor model.norm.weight is of shape [1, 1, 1, 1, 1, 1, 1, 1, …], but the configuration says [8]; "
        "3 tensors (extra, model.layers.7.more.weight, xxx"
    )
    assert said.endswith("are left over; the configuration does not describe this checkpoint")
    assert len(said) < 800 and "\n" not in said
    assert "missing: model.layers.4.self_attn.qkv_proj.weight" in caught.value.__notes__[0].splitlines()


def test_an_absurd_number_of_experts_is_not_gone_through() -> None:
    huge = spec(ExpertsSpec(1 << 31, 2, FeedForwardSpec(W)))
    with pytest.raises(Fault, match=r"experts\.\{0-2147483647\}\.up_proj\.weight"):
        match(huge, table(MOE, tensors=PER_EXPERT), {"a": (1,)}, HERE)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9), st.sampled_from(["w1", "w2"])), unique=True))
def test_ranges_hide_nothing(drawn: list[tuple[int, int, str]]) -> None:
    """A collapsed name, its ranges spelled out, covers the names it stands for and no others."""
    names = [f"layers.{layer}.experts.{expert}.{which}" for layer, expert, which in drawn]
    spelled = [name for each in collapsed(names) for name in spell(each)]
    assert sorted(spelled) == sorted(names)


def spell(name: str) -> list[str]:
    before, brace, rest = name.partition("{")
    if not brace:
        return [name]
    ranges, _, after = rest.partition("}")
    ends = [(each.split("-")[0], each.split("-")[-1]) for each in ranges.split(",")]
    numbers = [number for first, last in ends for number in range(int(first), int(last) + 1)]
    return [name for number in numbers for name in spell(f"{before}{number}{after}")]


class Counted:
    """A source that counts how often each tensor is read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors, self.reads = tensors, Counter[str]()

    size = 0

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        self.reads[name] += 1
        return self.tensors[name].to(dtype, copy=True)

    def kinds(self) -> dict[str, int]:
        return {}


@pytest.mark.parametrize("case", CASES)
def test_each_tensor_of_the_file_is_read_once_and_let_go(case: str) -> None:
    model, names = CASES[case]
    stored = dict(write(model, names, random_state(model).items()))
    source = Counted(stored)
    made = match(model, names, {name: tuple(tensor.shape) for name, tensor in stored.items()}, HERE)
    parameters_read = dict(Checkpoint(HERE, "m", "safetensors", model, source, made).state())
    assert source.reads == Counter(dict.fromkeys(stored, 1))
    assert sum(t.untyped_storage().nbytes() for t in parameters_read.values()) == sum(t.nbytes for t in stored.values())
