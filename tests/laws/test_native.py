"""Law 2: the native backend computes what torch computes, for every spec that it runs.

With weights and caches in fp32 both round at every sum. What is wanted comes from torch in double precision; native may
be off by 10⁻⁴, and where a drawn model magnifies rounding, by a few times what torch in fp32 is off. Where two experts
are so near that rounding chooses between them, there is nothing to compare.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from cache_specs import unrounded
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from native_specs import batch, native, needs_kernels, specs, weighted
from torch import Tensor

from openbook.lm.backends.native_build import unsupported
from openbook.lm.experts import Experts
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec

pytestmark = needs_kernels


def close(found: Tensor, wanted: Tensor, single: Tensor) -> None:
    """`single` is what torch makes of it in fp32."""
    allowed = 1e-4 * (1 + wanted.abs()) + 8 * (single - wanted).abs().max()
    off = (found - wanted).abs()
    assert (off <= allowed).all(), f"off by {float(off.max())}, torch by {float((single - wanted).abs().max())}"


def both_precisions(model: Any, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """What torch makes of it in double precision, and in fp32. Examples that rounding decides are given up."""
    lower, margins = deepcopy(model).float(), [1.0]
    for experts in (part for part in model.modules() if isinstance(part, Experts)):
        experts.router.register_forward_hook(lambda _, x, logits_TE, of=experts: margins.append(margin(of, logits_TE)))
    with unrounded(), torch.inference_mode():
        wanted, single = model(tokens, positions), lower(tokens, positions)
    assert wanted.dtype == torch.float64 and single.dtype == torch.float32
    assume(min(margins) > 1e-5)
    return wanted, single


def margin(experts: Experts, logits_TE: Tensor) -> float:
    """By how much the last chosen expert of any token is ahead of the first that was not."""
    active = experts.spec.active
    if active == experts.spec.count:
        return 1.0
    scores_TE = logits_TE if experts.balance is None else logits_TE.softmax(-1) + experts.balance
    top_TK = scores_TE.topk(active + 1).values
    return float((top_TK[:, -2] - top_TK[:, -1]).min())


def law_two(data: st.DataObject, longest: int = 40) -> None:
    model = weighted(data.draw(specs(growing=True)), data.draw(st.integers(0, 9)))
    assert unsupported(model.spec) is None
    tokens, positions = batch(data.draw, model.spec.vocabulary, longest)
    wanted, single = both_precisions(model, tokens, positions)
    found, real = native(model).forward(tokens, positions_BT=positions), positions >= 0
    close(found[real], wanted[real], single[real])


@given(st.data())
@settings(max_examples=120)
def test_native_is_torch(data: st.DataObject) -> None:
    law_two(data)


@pytest.mark.sweep
@given(st.data())
@settings(max_examples=3000)
def test_native_is_torch_swept(data: st.DataObject) -> None:
    law_two(data, 150)


def encoders(data: st.DataObject, longest: int = 40) -> None:
    both = data.draw(st.booleans())
    model = weighted(data.draw(specs(head=False, causal=not both, growing=True)), data.draw(st.integers(0, 9)))
    tokens, positions = batch(data.draw, model.spec.vocabulary, longest)
    taken: list[Tensor] = []
    model.layers[-1].feed_forward.register_forward_pre_hook(lambda module, given: taken.append(given[0]))
    wanted, single = both_precisions(model, tokens, positions)
    runner = native(model)
    found = runner.hidden(tokens, positions_BT=positions)
    real = positions >= 0
    close(found.last_BTM[real], wanted[real], single[real])
    close(found.feed_forward_BTM[real], taken[0][real], taken[1][real])
    assert not found.last_BTM[~real].any() and not found.feed_forward_BTM[~real].any()


@given(st.data())
@settings(max_examples=80)
def test_native_encoders_are_torch_both_ways_with_padding_on_either_side(data: st.DataObject) -> None:
    encoders(data)


@pytest.mark.sweep
@given(st.data())
@settings(max_examples=2000)
def test_native_encoders_are_torch_swept(data: st.DataObject) -> None:
    encoders(data, 150)


@pytest.mark.parametrize("tied", [True, False])
def test_reading_the_weights_reads_what_a_step_reads(tied: bool) -> None:
    """All matrices, in panels of 16 rows by 64 inputs; of the embedding only where it is the head."""
    layer = LayerSpec(AttentionSpec(6, 2, 8), FeedForwardSpec(40))
    model = weighted(ModelSpec(50, 48, (layer,) * 3, 64, tied=tied), 0)
    matrices = {name: w.shape for name, w in model.named_parameters() if w.dim() == 2}
    if not tied:
        del matrices["embedding.weight"]
    bytes_, seconds = native(model).read_weights()
    assert bytes_ == sum(4 * -(-rows // 16) * 16 * -(-columns // 64) * 64 for rows, columns in matrices.values())
    assert seconds > 0
