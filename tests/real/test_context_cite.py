"""Our ContextCite beside the package's own parts, where `openbook eval evidence --beside` installed it."""

from __future__ import annotations

import numpy as np
import pytest

from openbook.measure.ablation import draw, logit, surrogate
from openbook.measure.speed.environments import CONTEXT_CITE
from openbook.measure.speed.process import Worker

COUNT, PASSAGES, TOKENS = 64, 6, 7


def test_our_ablations_logits_and_coefficients_are_the_packages() -> None:
    if not CONTEXT_CITE.here:
        pytest.skip("context-cite is not installed: openbook eval evidence FILE --beside context-cite")
    chance = np.random.default_rng(3)
    effect_P = chance.normal(0, 1.5, PASSAGES) * [1, 1, 1, 0, 0, 0]
    odds_NT = draw(COUNT, PASSAGES) @ effect_P[:, None] / TOKENS + chance.normal(0, 0.3, (COUNT, TOKENS)) - 0.5
    worker = Worker("context_cite", CONTEXT_CITE, 1)
    try:
        theirs = worker.call("by_itself", count=COUNT, passages=PASSAGES, log_odds=odds_NT.tolist(), tokens=TOKENS)
    finally:
        worker.close()
    masks = np.array(theirs["masks"])
    np.testing.assert_array_equal(draw(COUNT, PASSAGES), masks)
    ours = logit(-np.log1p(np.exp(-odds_NT)).sum(axis=1))
    np.testing.assert_allclose(ours, theirs["logits"], rtol=1e-5)
    found = surrogate(masks, ours, TOKENS)
    np.testing.assert_allclose(found, theirs["scores"], atol=1e-3)  # its solver stops sooner than ours
    assert np.abs(found).max() > 0.5
