"""What the native backend cannot run it refuses by name, and torch serves; the model says which backend and why."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from native_specs import needs_kernels, weighted
from tokenizers import Tokenizer as Pieces
from tokenizers.models import BPE

from openbook.errors import Fault
from openbook.lm.backends import native_build
from openbook.lm.backends.native import NativeRunner
from openbook.lm.backends.native_build import unsupported
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache import codecs
from openbook.lm.cache.make import CacheSpec, make_cache
from openbook.lm.model import LanguageModel, load_model
from openbook.lm.rules import Rule, mask_rule, rule
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, NormSpec, RopeSpec, SpecError
from openbook.lm.weights.layouts import layout_of
from openbook.lm.weights.save import save

V = 61
FILES = {"tokenizer.json": Pieces(BPE({chr(97 + i): i for i in range(V)}, [])).to_str().encode()}


@pytest.fixture(scope="module")
def even() -> Rule:
    """A mask rule that somebody registered."""

    @mask_rule("native_even_keys")
    def even_keys(q_BT1: torch.Tensor, k_B1S: torch.Tensor) -> torch.Tensor:
        return (k_B1S % 2 == 0).expand_as(q_BT1 - k_B1S)

    return rule("native_even_keys")


def spec_of(**attention: Any) -> ModelSpec:
    layer = LayerSpec(AttentionSpec(2, 1, 8, rope=RopeSpec(), **attention), FeedForwardSpec(16))
    return ModelSpec(V, 16, (layer, layer), 64)


Save = Callable[..., Path]


@pytest.fixture
def saved(tmp_path: Path) -> Save:
    def make(**attention: Any) -> Path:
        spec = spec_of(**attention)
        model = weighted(spec, 0, dtype=torch.float32)
        return save(tmp_path / "model", spec, model.state_dict().items(), layout_of(spec), FILES)

    return make


def said(model: LanguageModel) -> torch.Tensor:
    return model.runner.forward(torch.tensor([[1, 2, 3]]))


@needs_kernels
def test_a_model_that_the_kernels_run_is_served_by_them(saved: Save) -> None:
    folder = saved(window=5, pinned=2)
    model = load_model(folder, device="cpu")
    assert (model.served, type(model.runner)) == ("native", NativeRunner)
    assert model.runner.batch_invariant and "native" in model.fingerprint
    exact = load_model(folder, device="cpu", precision="fp32")
    assert type(exact.runner) is TorchRunner and exact.served.startswith("torch: fp32 was asked for")
    torch.testing.assert_close(said(model), said(exact), atol=0.05, rtol=0.05)
    forced = load_model(folder, device="cpu", precision="fp32", backend="native")
    torch.testing.assert_close(said(forced), said(exact), atol=1e-4, rtol=1e-4)
    assert len({model.fingerprint, exact.fingerprint, forced.fingerprint}) == 3
    small = load_model(folder, device="cpu", precision="int8")
    torch.testing.assert_close(said(small), said(exact), atol=0.1, rtol=0.1)


@needs_kernels
@pytest.mark.parametrize("which", ["rule", "chunks"])
def test_what_they_cannot_run_torch_serves_and_says_why(saved: Save, even: Rule, which: str) -> None:
    chunked = rule("chunked", size=4)
    if which == "rule":
        folder, why = saved(rules=(even,)), "layer 0 has the mask rule native_even_keys, which only torch computes"
    else:
        folder, why = saved(rules=(chunked,), window=5, pinned=1), "layer 0 has chunks and pinned positions together"
    model = load_model(folder, device="cpu")
    assert model.served == f"torch: {why}" and type(model.runner) is TorchRunner and not model.runner.batch_invariant
    with pytest.raises(SpecError, match=f"cannot run this model: {why}.*use backend torch"):
        load_model(folder, device="cpu", backend="native")
    with pytest.raises(Fault, match=f"int8 is the native backend's: {why}"):
        load_model(folder, device="cpu", precision="int8")


def test_cross_attention_and_two_rules_are_refused(even: Rule) -> None:
    plain = spec_of()
    assert unsupported(plain) is None
    chunked = rule("chunked", size=4)
    assert unsupported(spec_of(rules=(chunked,))) is None
    assert unsupported(spec_of(rules=(chunked, even))) is not None
    twice = unsupported(spec_of(rules=(chunked, rule("chunked", size=6))))
    assert twice == "layer 0 has more than one mask rule"
    layer = LayerSpec(AttentionSpec(2, 1, 8), FeedForwardSpec(8), cross=AttentionSpec(2, 1, 8, causal=False))
    crossed = ModelSpec(61, 16, (layer,), 64, memory_width=16)
    assert unsupported(crossed) == "layer 0 has cross-attention"


@needs_kernels
def test_a_runner_refuses_what_it_is_not_for(even: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="native_even_keys"):
        NativeRunner(spec_of(rules=(even,)), [])
    monkeypatch.setitem(codecs._codecs, "native_unknown", codecs.Raw())
    with pytest.raises(SpecError, match="codec native_unknown; use backend torch"):
        NativeRunner(spec_of(), [], CacheSpec("dense", "native_unknown"))
    odd = ModelSpec(61, 16, (LayerSpec(AttentionSpec(2, 1, 7), FeedForwardSpec(8)),), 64)
    with pytest.raises(SpecError, match="int4"):
        NativeRunner(odd, weighted(odd, 0, dtype=torch.float32).state_dict().items(), CacheSpec("dense", "int4"))


@needs_kernels
def test_texts_longer_than_learned_positions_are_refused() -> None:
    layer = LayerSpec(AttentionSpec(2, 1, 8), FeedForwardSpec(8), NormSpec())
    spec = ModelSpec(61, 16, (layer,), 10, positions="learned")
    runner = NativeRunner(spec, weighted(spec, 0, dtype=torch.float32).state_dict().items(), precision="fp32")
    cache = runner.cache([None], room=20)
    runner.forward(torch.zeros(1, 10, dtype=torch.long), cache)
    with pytest.raises(Fault, match="10 positions"):
        runner.forward(torch.zeros(1, 1, dtype=torch.long), cache)
    assert cache.next_positions_B.tolist() == [10]


@needs_kernels
def test_what_does_not_fit_together_is_refused_before_memory_is_touched() -> None:
    spec = spec_of()
    runner = NativeRunner(spec, weighted(spec, 0, dtype=torch.float32).state_dict().items(), precision="fp32")
    token = torch.zeros(1, 1, dtype=torch.long)
    for layout in ("dense", "ring", "paged"):
        for rows in (1, 3):
            cache = make_cache(spec, CacheSpec(layout), 2, 9, torch.float32, torch.device("cpu"))
            tokens = torch.zeros(rows, 2, dtype=torch.long)
            with pytest.raises((ValueError, RuntimeError)):
                runner.forward(tokens, cache)
            with pytest.raises(ValueError, match="for a cache of 2"):
                runner.forward(tokens, cache, positions_BT=torch.arange(2).expand(rows, 2))
            assert cache.next_positions_B.tolist() == [0, 0]
    for other, dtype in ((spec, torch.float16), (spec_of(window=3), torch.float32)):
        with pytest.raises(ValueError, match="another model's"):
            runner.forward(token, make_cache(other, CacheSpec("dense"), 1, 9, dtype, torch.device("cpu")))
    with pytest.raises(RuntimeError, match="expand"):
        runner.forward(token, positions_BT=torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(IndexError):
        runner.forward(token, keep=[1])
    encoder = ModelSpec(V, 16, spec.layers, 64, head=False)
    weights = weighted(encoder, 0, dtype=torch.float32).state_dict().items()
    with pytest.raises(ValueError, match="hidden"):
        NativeRunner(encoder, weights).forward(token)


@needs_kernels
def test_threads_of_a_program_take_turns() -> None:
    spec = spec_of()
    runner = NativeRunner(spec, weighted(spec, 0, dtype=torch.float32).state_dict().items(), threads=2)
    texts = [torch.randint(0, V, (1 + i % 3, 40)) for i in range(8)]

    def written(text: torch.Tensor) -> torch.Tensor:
        cache = runner.cache([None] * len(text), room=40)
        return torch.cat([runner.forward(part, cache) for part in text.split([7, *[1] * 33], dim=1)], dim=1)

    alone = [written(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(pool.map(written, texts), alone, strict=True):
            assert torch.equal(one, other)


def test_without_kernels_torch_serves_and_says_so(saved: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build, "kernels", lambda: None)
    folder = saved()
    model = load_model(folder, device="cpu")
    assert type(model.runner) is TorchRunner
    assert model.served.startswith("torch: the native kernels are not installed")
    with pytest.raises(SpecError, match=r"not installed.*use backend torch"):
        load_model(folder, device="cpu", backend="native")
    with pytest.raises(Fault, match="int8 is the native backend's: the native kernels are not installed"):
        load_model(folder, device="cpu", precision="int8")
    with pytest.raises(Fault, match="not installed"):
        monkeypatch.setattr("openbook.lm.backends.native.kernels", lambda: None)
        NativeRunner(spec_of(), [])


def test_torch_is_served_where_it_is_asked_for(saved: Save) -> None:
    folder = saved()
    model = load_model(folder, device="cpu", backend="torch")
    assert type(model.runner) is TorchRunner and model.served == "torch: torch was asked for"
    with pytest.raises(Fault, match="int8 is the native backend's: torch was asked for"):
        load_model(folder, device="cpu", backend="torch", precision="int8")
    with pytest.raises(Fault, match="no backend is called 'mlx'; known are auto, native, torch"):
        load_model(folder, device="cpu", backend="mlx")  # type: ignore[arg-type]


@needs_kernels
@pytest.mark.parametrize("precision", ["auto", "int8", "fp32", "bf16"])
@pytest.mark.parametrize("name", ["layers.1.feed_forward.up.weight", "layers.0.attention_norm.weight"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(name: str, number: float, precision: str) -> None:
    spec = spec_of()
    state = {key: value.clone() for key, value in weighted(spec, 0, dtype=torch.float32).state_dict().items()}
    state[name].view(-1)[3] = number
    with pytest.raises(Fault, match=f"{name}.* not finite"):
        NativeRunner(spec, state.items(), precision=precision)
