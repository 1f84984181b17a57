"""One vector of a text's many, as its checkpoint says: the mean, or the first; anything else is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from families import tiny
from gguf_writer import write_gguf
from number_tokens import with_tokenizer

from openbook.errors import Fault
from openbook.lm.encoder import load_encoder
from openbook.lm.pooling import pooling_of
from openbook.lm.weights.checkpoint import open_checkpoint

V = 40
SIZES = {k: v for k, v in tiny().items() if k not in ("num_key_value_heads", "vocab_size")}
TEXTS = ["w5 w30 w11 w7", "w39"]
OFF = {"pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False, "word_embedding_dimension": 16}


def model() -> Any:
    torch.manual_seed(0)
    return hf.BertModel(hf.BertConfig(vocab_size=V, **SIZES), add_pooling_layer=False).eval()


def folder_of(path: Path, said: dict[str, Any] | None) -> tuple[Any, Path]:
    theirs = model()
    theirs.save_pretrained(path)
    if said is not None:
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling" / "config.json").write_text(json.dumps(said))
    return theirs, with_tokenizer(path, V)


SAID: dict[str, tuple[dict[str, Any] | None, bool]] = {
    "nothing": (None, False),
    "mean": (OFF | {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, False),
    "bge": (OFF | {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True, "include_prompt": True}, True),
    "new": ({"pooling_mode": "cls", "embedding_dimension": 16}, True),
}


@pytest.mark.parametrize("case", SAID)
@torch.inference_mode()
def test_a_text_is_its_mean_or_its_first_token(case: str, tmp_path: Path) -> None:
    said, first = SAID[case]
    theirs, folder = folder_of(tmp_path, said)
    got = load_encoder(folder, device="cpu", backend="torch").embed(TEXTS)
    for text, vector in zip(TEXTS, got, strict=True):
        ids = [2, *(int(word[1:]) for word in text.split()), 3]
        hidden_TM = theirs(torch.tensor([ids])).last_hidden_state[0]
        one_M = hidden_TM[0] if first else hidden_TM.mean(0)
        np.testing.assert_allclose(vector, one_M / one_M.norm(), atol=1e-5)


@pytest.mark.parametrize(
    "said",
    [
        OFF | {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        OFF | {"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True},
        OFF | {"pooling_mode_lasttoken": True},
        {"pooling_mode": ["cls", "mean"]},
        {},
    ],
)
def test_another_pooling_is_refused_by_name(said: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"1_Pooling/config\.json: pools by .*are read"):
        load_encoder(folder_of(tmp_path, said)[1])


def test_a_layer_on_the_pooled_vector_is_refused(tmp_path: Path) -> None:
    _, folder = folder_of(tmp_path, None)
    (folder / "2_Dense").mkdir()
    with pytest.raises(Fault, match="2_Dense is a further layer"):
        load_encoder(folder)


@pytest.mark.parametrize(("number", "said"), [(None, "mean"), (1, "mean"), (2, "first"), (3, "is 3"), ("x", "is 'x'")])
def test_pooling_of_gguf(number: Any, said: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_gguf(model(), "bert", tmp_path / "m.gguf", pooling_type=number))
    if said.startswith("is "):
        with pytest.raises(Fault, match=f"pooling_type {said}"):
            pooling_of(checkpoint)
    else:
        assert pooling_of(checkpoint) == said


def test_what_is_no_character_is_embedded_as_a_question_mark(tmp_path: Path) -> None:
    """A lone surrogate comes from a file name or an argument that is not UTF-8."""
    encoder = load_encoder(folder_of(tmp_path, None)[1], device="cpu", backend="torch")
    broken = "w5 \udcff w6"
    np.testing.assert_array_equal(encoder.embed([broken]), encoder.embed(["w5 ? w6"]))
    assert encoder.count_tokens([broken]) == [3] and encoder.token_spans(broken) == [(0, 2), (3, 4), (5, 7)]
