"""Law 2: the native backend computes what torch computes, for every spec that it runs.

With weights and caches in fp32 both round at every sum. What is wanted comes from torch in double precision; native may
be off by 10⁻⁴, and where a drawn model magnifies rounding, by a few times what torch in fp32 is off.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from cache_specs import unrounded
from hypothesis import given, settings
from hypothesis import strategies as st
from native_specs import batch, native, needs_kernels, specs, weighted
from torch import Tensor

from openbook.lm.backends.native_build import unsupported

pytestmark = needs_kernels


def close(found: Tensor, wanted: Tensor, single: Tensor) -> None:
    """`single` is what torch makes of it in fp32."""
    allowed = 1e-4 * (1 + wanted.abs()) + 8 * (single - wanted).abs().max()
    off = (found - wanted).abs()
    assert (off <= allowed).all(), f"off by {float(off.max())}, torch by {float((single - wanted).abs().max())}"


def law_two(data: st.DataObject, longest: int = 40) -> None:
    model = weighted(data.draw(specs(growing=True)), data.draw(st.integers(0, 9)))
    assert unsupported(model.spec) is None
    tokens, positions = batch(data.draw, model.spec.vocabulary, longest)
    with unrounded(), torch.inference_mode():
        wanted = model(tokens, positions)
        single = deepcopy(model).float()(tokens, positions)
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
    with unrounded(), torch.inference_mode():
        wanted = model(tokens, positions)
        single = deepcopy(model).float()(tokens, positions)
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
