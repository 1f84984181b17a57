"""A model that is not what was asked for, or not all of one: each is one line that says what to do instead."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from families import tiny
from gguf_writer import write_gguf
from safetensors.torch import load_file, save_file

from openbook.errors import Fault
from openbook.lm import load_classifier, load_seq2seq
from openbook.lm.encoder import load_encoder
from openbook.lm.model import load_model
from openbook.lm.weights.checkpoint import open_checkpoint

SMALL = {k: v for k, v in tiny().items() if k != "num_key_value_heads"}
SIDES = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads", "ffn_dim")}
MODELS: dict[str, tuple[Callable[..., Any], Callable[[], Any]]] = {
    "writes text": (load_model, lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**tiny()))),
    "embeds texts": (load_encoder, lambda: hf.BertModel(hf.BertConfig(**SMALL))),
    "puts labels to texts": (load_classifier, lambda: hf.BertForSequenceClassification(hf.BertConfig(**SMALL))),
    "reads one text and writes another": (
        load_seq2seq,
        lambda: hf.BartForConditionalGeneration(hf.BartConfig(vocab_size=40, d_model=8, **SIDES)),
    ),
}


def saved(does: str, folder: Path) -> Path:
    torch.manual_seed(0)
    MODELS[does][1]().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("does", MODELS)
def test_each_opener_says_what_the_model_is_and_who_opens_it(does: str, tmp_path: Path) -> None:
    folder, right = saved(does, tmp_path), MODELS[does][0]
    for needed, (opener, _) in MODELS.items():
        if opener is not right:
            with pytest.raises(Fault, match=f"{does}: {right.__name__} opens it; .* that {needed}$") as caught:
                opener(folder)
            assert str(caught.value).startswith(str(folder))
    with pytest.raises(Fault, match=r"tokenizer.json is missing"):
        right(folder)


@pytest.mark.parametrize("does", MODELS)
@pytest.mark.parametrize("other", ["tokenizer.model", "vocab.txt", "spiece.model"])
def test_a_tokenizer_in_another_form_says_how_to_make_one(does: str, other: str, tmp_path: Path) -> None:
    (saved(does, tmp_path) / other).write_bytes(b"\x00")
    with pytest.raises(Fault, match=f"{other} is not read; make one with transformers: AutoTokenizer"):
        MODELS[does][0](tmp_path)


def test_a_template_that_is_no_text_is_named(tmp_path: Path) -> None:
    from number_tokens import with_tokenizer

    (with_tokenizer(saved("writes text", tmp_path), 40) / "chat_template.jinja").write_bytes(b"\xff\xfe{{")
    with pytest.raises(Fault, match=r"chat_template.jinja is not readable text"):
        load_model(tmp_path)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.int64, torch.bool])
def test_weights_that_are_no_floats_are_refused_on_opening(kind: torch.dtype, tmp_path: Path) -> None:
    file = saved("writes text", tmp_path) / "model.safetensors"
    tensors = {name: t.to(kind) if "down_proj" in name else t for name, t in load_file(file).items()}
    save_file(tensors, file)
    with pytest.raises(Fault, match=r"layers.\{0-\d\}.mlp.down_proj.weight\) are stored as .* take the checkpoint"):
        open_checkpoint(tmp_path)


def test_a_file_beside_the_model_is_not_taken_for_it(tmp_path: Path) -> None:
    folder = saved("writes text", tmp_path)
    other = Path(shutil.copy(folder / "model.safetensors", folder / "other.safetensors"))
    assert open_checkpoint(folder / "model.safetensors").name == folder.name
    with pytest.raises(Fault, match=r"other.safetensors is no part of the model"):
        open_checkpoint(other)
    (folder / "model.safetensors").unlink()
    with pytest.raises(Fault, match=r"it holds 'other.safetensors': if that is the whole model, call it model.safe"):
        open_checkpoint(folder)


def test_a_folder_of_gguf_says_which_to_give(tmp_path: Path) -> None:
    write_gguf(MODELS["writes text"][1](), "llama", tmp_path / "m.gguf")
    with pytest.raises(Fault, match=r"give the path of a GGUF file in it: 'm.gguf'"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("does", MODELS)
@pytest.mark.parametrize("device", ["tpu9", "meta", "cuda:99"])
def test_a_device_that_is_not_here_is_named(does: str, device: str, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=f"there is no device '{device}' here"):
        MODELS[does][0](tmp_path, device=device)


def test_a_precision_that_is_none_is_named() -> None:
    for opener in (load_model, load_seq2seq):
        with pytest.raises(Fault, match="no precision is called 'int3'; known are auto, bf16, fp32"):
            opener("nowhere", precision="int3")  # type: ignore[arg-type]


def test_a_device_is_no_file() -> None:
    with pytest.raises(Fault, match="/dev/null is no file"):
        open_checkpoint("/dev/null")
