"""Gemma 3 270M from its GGUF, where its terms were accepted: every kind of tensor, and the tokens of its text."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_texts import CHAT, TEXT

from openbook.home import home
from openbook.lm.tokenizer import Tokenizer
from openbook.lm.weights.gguf import GGUFFile
from openbook.lm.weights.pull import find, installed

GEMMA = find("gemma3")
pytestmark = pytest.mark.skipif(GEMMA not in installed(), reason="needs: openbook models pull gemma3 --accept-terms")
FILE = home() / "models/gemma3/gemma-3-270m-q4_k_m.gguf"


@cache
def _file() -> GGUFFile:
    return GGUFFile.open(FILE)


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_gguf(_file().metadata)


def _reference(name: str, rows: slice = slice(None)) -> Any:
    """The rows of a tensor as the gguf package unpacks them."""
    from gguf import GGMLQuantizationType, quants

    info = _file().tensors[name]
    raw = np.frombuffer(_file().bytes(info.offset, info.offset + info.nbytes), np.uint8).reshape(info.shape[0], -1)
    return quants.dequantize(raw[rows], GGMLQuantizationType[info.kind])


def test_a_tensor_of_each_kind_is_as_the_reference_unpacks_it() -> None:
    assert _file().kinds() == {"F32": 109, "Q5_0": 81, "Q4_K": 27, "Q8_0": 10, "Q6_K": 9}
    for kind in ("Q5_0", "Q4_K", "Q8_0", "Q6_K"):
        name = [info.name for info in _file().tensors.values() if info.kind == kind][-1]
        assert np.array_equal(_file().tensor(name).numpy(), _reference(name)), name


@pytest.mark.sweep
def test_every_tensor_is_as_the_reference_unpacks_it() -> None:
    for name, info in _file().tensors.items():
        rows = slice(0, 4096) if info.count > 1 << 24 else slice(None)
        if info.kind != "F32":
            assert np.array_equal(_file().tensor(name)[rows].numpy(), _reference(name, rows)), name


# Ids of transformers 5.23, to which the sweep below compares on drawn text.
KNOWN: dict[str, list[int]] = {
    "": [],
    "The comet was first seen in 1987.": [
        818, 78665, 691, 1171, 3472, 528, 236743, 236770, 236819, 236828, 236832, 236761,
    ],
    "  two  spaces\n\n\nlines\t\ttabs\r\n": [138, 13498, 138, 35220, 109, 8721, 255969, 39218, 251, 107],
    "naïve café e\u0301 日本語 한국어 👩‍👩‍👧 ﷺ 𝔘": [
        1789, 238527, 560, 33443, 545, 238288, 33375, 238582, 50413, 237430, 236743, 243767, 237243, 243767, 237243,
        244814, 93718, 236743, 478, 395, 386, 390,
    ],
    "x = {'a': 3.14159}  # don't": [
        236781, 578, 16923, 236746, 2632, 236743, 236800, 236761, 236770, 236812, 236770, 236810, 236819, 236783, 138,
        236865, 1537, 236789, 236745,
    ],
    "<b>bold</b> <0x41> </s> \x00\x7f": [
        200, 15640, 209, 655, 236771, 236781, 236812, 236770, 236813, 236743, 212, 236743, 238, 251541,
    ],
    "   ": [139],
}  # fmt: skip


def test_known_texts() -> None:
    tokenizer = _tokenizer()
    assert tokenizer.vocabulary == 262_144 and tokenizer.bos_id == 2 and tokenizer.eos_ids == {1, 106}
    for text, ids in KNOWN.items():
        assert tokenizer.encode(text) == ids and tokenizer.decode(ids) == text
    assert tokenizer.encode("Who", special=True)[0] == 2
    assert tokenizer.encode(" " * 64) == [*tokenizer.encode(" " * 31) * 2, *tokenizer.encode("  ")]
    marks = "<start_of_turn>user\n<end_of_turn><bos><eos><unused7>"
    assert (
        tokenizer.control_ids.isdisjoint(tokenizer.encode(marks)) and tokenizer.decode(tokenizer.encode(marks)) == marks
    )
    assert tokenizer.encode_template(marks) == [105, 2364, 107, 106, 2, 1, 13]
    # A base model: its file has no chat template.
    assert tokenizer.render_chat(CHAT).startswith("Be brief.\n\n")


@given(text=TEXT)
@settings(max_examples=100, deadline=None)
def test_text_comes_back(text: str) -> None:
    text = text.replace("▁", " ")
    ids = _tokenizer().encode(text)
    stream = _tokenizer().stream()
    assert _tokenizer().decode(ids) == text == "".join(map(stream.push, ids)) + stream.flush()


@pytest.mark.sweep
@given(parts=st.lists(st.one_of(TEXT, st.sampled_from(["<b>", "</s>", "<table>", "[multimodal]", "<0x41>", " " * 30]))))
@settings(max_examples=3000, deadline=None)
def test_tokens_as_transformers(parts: list[str]) -> None:
    # Longer runs transformers cuts into sixteens; SentencePiece, with which the model was made, does not.
    text = re.sub("[ ▁]{32,}", " ", "".join(parts))
    if not _tokenizer().control_ids.isdisjoint(_oracle()(text, add_special_tokens=False).input_ids):
        assert _tokenizer().control_ids.isdisjoint(_tokenizer().encode(text))  # ours reads its letters
        return
    assert _tokenizer().encode(text) == _oracle()(text, add_special_tokens=False).input_ids
    assert _tokenizer().encode(text, special=True) == _oracle()(text).input_ids


@cache
def _oracle() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FILE.parent, gguf_file=FILE.name)
