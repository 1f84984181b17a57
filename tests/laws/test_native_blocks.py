"""The kernels by themselves: what panels hold is what files hold, and products are what they say.

Weights stay exact for Q4_0 … Q8_0. Scales of a k-quant are products of two numbers of the file, kept here in half
precision: off by 2⁻¹¹ of themselves (2⁻²⁵ where they are below its normal numbers), the minimum likewise.
Activations are rounded to 8 bits with a scale a block of 32; then all products are whole numbers, added up in fp32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_specs import KINDS, batch, blocks, native, needs_kernels, plain, specs, weighted
from test_native_exact import Made, models, run

from openbook.lm.backends.native import NativeRunner
from openbook.lm.backends.native_build import BLOCK_KINDS, Weight
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.make import AUTO
from openbook.lm.decoder import Decoder
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec
from openbook.lm.weights.quants import QUANTS
from openbook.native import kernels

pytestmark = needs_kernels
ISAS = kernels().isas() if kernels() is not None else []
PACKED = {"q8_0": ("int8", 32), "wide": ("wide", 128)}
"""What floats are made into: under which precision, and how many numbers share a scale."""
SUPER = [kind for kind in KINDS if kind.endswith("K")]
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 5))
"""Rows, and blocks a row."""


def rows_of(matrix: Any) -> torch.Tensor:
    """The numbers that a packed matrix holds."""
    out = torch.empty(matrix.rows, matrix.columns)
    for index in range(matrix.rows):
        matrix.row(index, out[index].data_ptr())
    return out


def test_every_kind_that_is_read_and_packed_is_tried() -> None:
    assert set(KINDS) == BLOCK_KINDS == {kind for kind, quant in QUANTS.items() if quant.weights > 1}


@pytest.mark.parametrize("kind", KINDS)
@given(SIZES, st.integers(0, 99), st.sampled_from([1e-4, 0.05, 30.0]))
@settings(max_examples=12)
def test_panels_hold_what_the_blocks_hold(kind: str, size: tuple[int, int], seed: int, scale: float) -> None:
    rows, columns = size[0], size[1] * QUANTS[kind].weights
    made = blocks(kind, rows, columns, seed, scale)
    matrix = kernels().Matrix.blocks(kind, made.raw.numpy(), columns)
    assert (matrix.rows, matrix.columns, matrix.kind) == (rows, columns, kind)
    found, wanted = rows_of(matrix), made.numbers()
    if kind not in SUPER:
        assert torch.equal(found, wanted)
        return
    # A number is scale · level + minimum, both at most as large as the largest of a matrix of such parts may be.
    part = part_sizes(kind, made.raw.numpy())
    bound = torch.from_numpy(part).repeat_interleave(wanted.numel() // part.size).view_as(wanted)
    assert ((found - wanted).abs() <= bound).all()


def part_sizes(kind: str, raw: np.ndarray) -> np.ndarray:
    """How far the numbers of each super-block may be off: 2⁻¹¹ of its largest scale times the largest level and of its
    largest minimum, or 2⁻²⁵ of the level and once."""
    level, scales, minima = {
        "Q2_K": (3, 15, 15), "Q3_K": (4, 32, 0), "Q4_K": (15, 63, 63), "Q5_K": (31, 63, 63), "Q6_K": (32, 128, 0),
    }[kind]  # fmt: skip
    at = {"Q2_K": (80, 82), "Q3_K": (108, 108), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208, 208)}[kind]
    bytes_ = raw.reshape(-1, QUANTS[kind].bytes)
    d, least = (np.abs(bytes_[:, i : i + 2].copy().view("<f2").astype(np.float64)[:, 0]) for i in at)
    normal = (d * scales * level + least * minima) * 2.0**-11
    return normal * 1.001 + (level + 1) * 2.0**-25


@pytest.mark.parametrize("kind", ["f32", "bf16", *PACKED])
@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 9))
@settings(max_examples=25)
def test_floats_of_any_size_are_packed(kind: str, rows: int, columns: int, seed: int) -> None:
    torch.manual_seed(seed)
    numbers = torch.randn(rows, columns) * 10.0 ** torch.randint(-3, 3, (rows, 1))
    found = rows_of(kernels().Matrix.floats(kind, numbers.numpy()))
    if kind == "f32":
        assert torch.equal(found, numbers)
    elif kind == "bf16":
        assert torch.equal(found, numbers.bfloat16().float())
    else:
        for block, kept in zip(numbers.split(PACKED[kind][1], 1), found.split(PACKED[kind][1], 1), strict=True):
            scale = block.abs().amax(1, keepdim=True) / 127
            assert ((block - kept).abs() <= scale * (0.5 + 2**-9) + 127 * 2.0**-25).all()


def one_product(weight: Weight, columns: int, rows: int) -> tuple[ModelSpec, dict[str, Weight]]:
    """A model whose logits are a matrix times a token's embedding: its layer adds nothing."""
    layer = LayerSpec(AttentionSpec(1, 1, 2), FeedForwardSpec(1))
    spec = ModelSpec(rows, columns, (layer,), 64, tied=False, final_norm=None)
    state: dict[str, Weight] = dict(weighted(spec, 1, 1.0, torch.float32).state_dict())
    for name in ("layers.0.attention.out.weight", "layers.0.feed_forward.down.weight"):
        state[name] = torch.zeros_like(plain(state)[name])
    state["head.weight"] = weight
    return spec, state


def levels(x: torch.Tensor, block: int) -> torch.Tensor:
    """Activations as products read them: 8 bits, and a scale a block."""
    parts = torch.nn.functional.pad(x, (0, -x.shape[1] % block)).unflatten(1, (-1, block))
    top = parts.abs().amax(-1, keepdim=True)
    by = torch.where(top > 0, torch.full_like(top, 127) / top, 0)  # 127 / top would be 127 · (1 / top)
    return ((parts * by).round().double() * (top / 127)).flatten(1)[:, : x.shape[1]]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", [*KINDS, *PACKED])
@given(SIZES, st.integers(0, 99))
@settings(max_examples=3)
def test_a_product_is_of_whole_numbers(isa: str, kind: str, size: tuple[int, int], seed: int) -> None:
    """Equal to rounding in fp32 once activations are rounded; and so no further from the true product than half a
    level of each activation times its weight."""
    torch.manual_seed(seed)
    rows, matrix = size[0] + 3, kernels().Matrix
    if kind in PACKED:  # the embedding is packed as the head is
        columns, (precision, block) = size[1] * 67, PACKED[kind]
        weight: Weight = torch.randn(rows, columns)
        spec, state = one_product(weight, columns, rows)
        x, held = (rows_of(matrix.floats(kind, plain(state)[f"{at}.weight"].numpy())) for at in ("embedding", "head"))
    else:
        columns, precision, block = size[1] * QUANTS[kind].weights, "auto", 32
        made = blocks(kind, rows, columns, seed)
        spec, state = one_product(made, columns, rows)
        x = plain(state)["embedding.weight"].bfloat16().float()
        held = rows_of(matrix.blocks(kind, made.raw.numpy(), columns))
    runner = NativeRunner(spec, state.items(), precision=precision, threads=1, isa=isa)
    found, held = runner.forward(torch.arange(rows)[None])[0].double(), held.double()
    rounded = levels(x, block)
    exact, size_of = rounded @ held.T, rounded.abs() @ held.abs().T
    assert ((found - exact).abs() <= 2e-6 * size_of + 1e-30).all()
    half = (x.double() - rounded).abs() @ held.abs().T
    assert ((found - x.double() @ held.T).abs() <= half + 2e-6 * size_of + 1e-30).all()


@pytest.mark.parametrize("isa", ISAS)
@given(st.integers(1, 9), st.integers(1, 9000), st.sampled_from([0, 5, 100]), st.integers(0, 9))
@settings(max_examples=10)
def test_sources_are_mixed_as_torch_mixes_them(isa: str, sources: int, words: int, apart: int, seed: int) -> None:
    """log Σ_s w_s softmax(scores_s), and each source's log-normaliser; rows need not follow each other."""
    torch.manual_seed(seed)
    rows, log_w = torch.randn(sources, words + apart) * 8, torch.randn(sources).log_softmax(0)
    scores = rows[:, :words]
    scores[0, : words // 3] = -torch.inf
    out = torch.empty(words)
    at = scores.data_ptr(), sources, words, scores.stride(0)
    found = kernels().mix(kernels().Team(1), isa, *at, log_w.tolist(), out.data_ptr())
    exact = scores.double()
    wanted = (exact.log_softmax(1) + log_w.double()[:, None]).logsumexp(0)
    torch.testing.assert_close(torch.tensor(found).double(), exact.logsumexp(1), atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(out.double(), wanted, atol=2e-5, rtol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@given(st.data())
@settings(max_examples=15)
def test_every_set_of_instructions_computes_the_same_in_fp32(isa: str, data: st.DataObject) -> None:
    model = weighted(data.draw(specs(growing=True)), data.draw(st.integers(0, 9)))
    tokens, positions = batch(data.draw, model.spec.vocabulary)
    found, wanted = (native(model, isa=name).forward(tokens, positions_BT=positions) for name in (isa, ISAS[0]))
    torch.testing.assert_close(found[positions >= 0], wanted[positions >= 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@given(models(), st.lists(st.integers(1, 30), min_size=1, max_size=3))
@settings(max_examples=10)
def test_every_set_of_instructions_computes_nearly_the_same_on_quantised_weights(
    isa: str, made: Made, counts: list[int]
) -> None:
    """An activation that sums in another order put beyond the middle of two levels is rounded to the other, and these
    models are random: the whole is held to be near what torch makes of the same weights, each product is held above."""
    spec, state, _ = made
    text = torch.randint(0, spec.vocabulary, (2, sum(counts)))
    runner = run((spec, state, AUTO), isa=isa)
    cache = runner.cache([None, None], 2 * text.shape[1])
    found = torch.cat([runner.forward(part, cache) for part in text.split(counts, dim=1)], dim=1)
    decoder = Decoder(spec)
    decoder.load_state_dict(plain(state))
    wanted = TorchRunner(decoder).forward(text)
    assert off(found, wanted) < 0.15


def off(one: torch.Tensor, other: torch.Tensor) -> float:
    """The size of a difference as a part of the size of what differs."""
    return float((one - other).norm() / other.norm())


def test_what_is_no_matrix_is_refused() -> None:
    matrix = kernels().Matrix
    raw = np.zeros((3, 36), np.uint8)
    wrong = [("Q4_0", 32, "bytes"), ("Q4_0", 48, "bytes"), ("Q9_9", 64, "Q9_9"), ("Q4_0", 0, "bytes")]
    for kind, columns, words in wrong:
        with pytest.raises(ValueError, match=words):
            matrix.blocks(kind, raw, columns)
    with pytest.raises(ValueError, match="q3_0"):
        matrix.floats("q3_0", np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="0 rows"):
        matrix.floats("f32", np.zeros((0, 2), np.float32))
    with pytest.raises(IndexError):
        matrix.blocks("Q4_0", raw, 64).row(3, torch.empty(64).data_ptr())
    with pytest.raises(ValueError, match="known are"):
        native(weighted(one_product(torch.zeros(4, 4), 4, 4)[0], 0), isa="avx9000")
