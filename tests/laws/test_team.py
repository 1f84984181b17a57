"""The native threads are one team for all who compute: who mixes beside another's forward gets what they get alone."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from native_specs import needs_kernels

from openbook.lm.backends.native import NativeRunner
from openbook.lm.model import LanguageModel
from openbook.mix.mixing import mix, normalisers

SIZES = [(1, 300), (6, 49_152), (5, 262_144)]
"""Sources and words: less than waking the team is worth, and more."""


@needs_kernels
@pytest.mark.parametrize("count", [2, 3])
def test_mixing_beside_forwards(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("openbook.lm.backends.threads.threads", lambda: count)  # one team, that of the model
    weights = tiny_model.runner.decoder.state_dict().items()  # type: ignore[attr-defined]
    runner = NativeRunner(tiny_model.spec, weights, precision="fp32", threads=count)
    generator = torch.Generator().manual_seed(7)
    drawn = [torch.randn(rows, words, generator=generator) * 5 for rows, words in SIZES]
    log_w = [np.log(np.full(rows, 1 / rows)) for rows, _ in SIZES]

    def mixed() -> list[object]:
        found: list[object] = []
        for scores, each in zip(drawn, log_w, strict=True):
            log_mix_V, log_z_S = mix(scores, each)
            found += [log_mix_V.tolist(), log_z_S.tolist(), normalisers(scores).tolist()]
        return found

    text = torch.randint(0, tiny_model.spec.vocabulary, (3, 200), generator=generator)
    alone, read = mixed(), runner.forward(text)
    over, wrong = threading.Event(), []

    def reads() -> None:
        while not over.is_set():
            if not torch.equal(runner.forward(text), read):
                wrong.append("forward")

    reading = [threading.Thread(target=reads) for _ in range(2)]
    for thread in reading:
        thread.start()
    try:
        for _ in range(5):
            assert mixed() == alone
    finally:
        over.set()
        for thread in reading:
            thread.join()
    assert not wrong
