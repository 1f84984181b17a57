"""`models show --check`: every tensor that is not finite is named, and a tokenizer that does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Pieces
from tokenizers.models import BPE

from openbook.cli.app import run
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec
from openbook.lm.stacks import build
from openbook.lm.weights.check import check
from openbook.lm.weights.checkpoint import open_checkpoint
from openbook.lm.weights.layouts import layout_of
from openbook.lm.weights.safetensors import SINGLE
from openbook.lm.weights.save import save

SPEC = ModelSpec(8, 32, (LayerSpec(AttentionSpec(4, 2, 8, rope=RopeSpec()), FeedForwardSpec(32)),) * 5, 64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    pieces = Pieces(BPE({chr(97 + i): i for i in range(8)}, [])).to_str().encode()
    state = build(SPEC).state_dict().items()
    return save(tmp_path / "m", SPEC, state, layout_of(SPEC), {"tokenizer.json": pieces}, dtype=torch.float32)


def spoil(folder: Path, name: str, value: float, count: int = 1) -> None:
    tensors = load_file(folder / SINGLE)
    tensors[name].view(-1)[:count] = value
    save_file(tensors, folder / SINGLE)


def test_a_sound_model_is_sound(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "show", str(folder), "--check"]) == 0
    assert "47 tensors read, all weights are finite; the tokenizer fits" in " ".join(capsys.readouterr().out.split())
    assert run(["models", "show", str(folder), "--check", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["check"]
    assert report == {"tensors": 47, "not_finite": {}, "tokenizer": None}
    told: list[tuple[int, int]] = []
    check(open_checkpoint(folder), lambda done, total, _: told.append((done, total)))
    assert told == [(i, 47) for i in range(47)]


def test_every_tensor_that_is_not_finite_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for layer in (1, 2, 4):
        spoil(folder, f"model.layers.{layer}.mlp.up_proj.weight", float("nan"), 3)
    spoil(folder, "model.norm.weight", float("-inf"))
    assert run(["models", "show", str(folder)]) == 0
    capsys.readouterr()
    assert run(["models", "show", str(folder), "--check", "--json"]) == 1
    printed = capsys.readouterr()
    bad = json.loads(printed.out)["check"]["not_finite"]
    assert bad == {
        **{f"model.layers.{i}.mlp.up_proj.weight": {"nan": 3, "infinite": 0} for i in (1, 2, 4)},
        "model.norm.weight": {"nan": 0, "infinite": 1},
    }
    assert printed.err.strip().endswith(
        "4 of 47 tensors have weights that are NaN or infinite: model.layers.{1-2,4}.mlp.up_proj.weight, "
        "model.norm.weight; download it again, or take another"
    )
    assert run(["models", "show", str(folder), "--check"]) == 1
    assert "3 NaN, 0 infinite" in capsys.readouterr().out


def test_a_tokenizer_that_does_not_fit_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Pieces(BPE({chr(97 + i): i for i in range(9)}, [])).save(str(folder / "tokenizer.json"))
    assert run(["models", "show", str(folder), "--check"]) == 1
    assert "its tokenizer has 9 tokens, its weights have 8; they are not of one model" in capsys.readouterr().err
    (folder / "tokenizer.json").unlink()
    assert run(["models", "show", str(folder), "--check"]) == 1
    assert "tokenizer.json" in capsys.readouterr().err


def test_a_quantised_scale_that_is_nan_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    sizes: dict[str, Any] = {"block_count": 1, "context_length": 32, "embedding_length": 32, "feed_forward_length": 32}
    for key, number in {**sizes, "attention.head_count": 2}.items():
        writer.add_uint32(f"llama.{key}", number)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    names = [
        f"blk.0.{part}" for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    ]
    kind = gguf.GGMLQuantizationType.Q8_0
    for name in ["token_embd", *names]:
        raw = np.ones((32, 34), np.uint8)
        raw[:, :2] = np.frombuffer(np.float16(0.5).tobytes(), np.uint8)
        if name == "blk.0.ffn_up":
            raw[5, :2] = np.frombuffer(np.float16("nan").tobytes(), np.uint8)
        writer.add_tensor(f"{name}.weight", raw, raw_dtype=kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    report = check(open_checkpoint(path))
    assert report.tensors == 11 and report.not_finite == {"blk.0.ffn_up.weight": (32, 0)}
    assert report.tokenizer is not None and report.problem is not None
