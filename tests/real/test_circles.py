"""A real model that goes round in a circle is stopped; one that tells a story is not."""

from __future__ import annotations

import pytest

from openbook.home import home
from openbook.lm.decoding.generate import generate
from openbook.lm.model import LanguageModel, load_model


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    if not any((home() / "models" / "smollm2").glob("*.gguf")):
        pytest.skip("smollm2 is not here; run: openbook models pull smollm2")
    return load_model("smollm2", fetch=False)


def test_a_circle_is_left_and_a_story_goes_on(model: LanguageModel) -> None:
    def written(prompt: str, cut_repeats: bool) -> tuple[str, str | None]:
        writing = generate(model, prompt, max_tokens=64, cut_repeats=cut_repeats)
        return "".join(piece.text for piece in writing), writing.reason

    circle = "A comet is a comet. It is a comet. It is a comet."
    whole, reason = written(circle, False)
    assert whole.count(" It is a comet.") > 8 and reason == "limit"
    assert written(circle, True) == (" It is a comet.", "repetition")
    assert written("Once upon a time", True) == written("Once upon a time", False)
