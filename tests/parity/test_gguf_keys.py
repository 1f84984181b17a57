"""What GGUF files of released models say besides sizes: keys that change nothing, keys that must be understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers as hf
from gguf_writer import write_gguf
from test_gguf_families import MODELS, TEXT, causal, of

from openbook.errors import Fault
from openbook.lm.decoder import Decoder
from openbook.lm.weights.checkpoint import open_checkpoint

SAID = {  # what a converter, a quantiser and a hub write about a file
    "general.type": "model", "general.name": "Tiny", "general.size_label": "1B", "general.license": "mit",
    "general.tags": ["a", "b"], "general.languages": ["en"], "general.quantization_version": 2, "general.file_type": 15,
    "quantize.imatrix.file": "/models/imatrix.dat", "quantize.imatrix.entries_count": 112, "split.count": 1,
}  # fmt: skip
YARN: dict[str, Any] = {
    "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16,
    "rope.scaling.finetuned": False,
}  # fmt: skip
HARMLESS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rope.dimension_count": 4, "attention.key_length": 4, "attention.value_length": 4,
                        "expert_count": 0, "expert_used_count": 0, "tensor_data_layout": "Meta AI original pth"}),
    "no scaling": ("llama", {"rope.scaling.type": "none"}),
    "scaled by one": ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 1.0}),
    "mixtral": ("mixtral", {"expert_gating_func": 1, "expert_feed_forward_length": 24}),
    "olmoe": ("olmoe", {"expert_feed_forward_length": 24}),
    "qwen3moe": ("qwen3moe", {"expert_gating_func": 1, "expert_shared_count": 0}),
    "gemma3": ("gemma3", {"rope.freq_base_swa": 10000.0, "attention.key_length_swa": 8, "rope.dimension_count_swa": 8,
                          "attention.sliding_window_pattern": 6, "final_logit_softcapping": 0.0}),
    "gpt2": ("gpt2", {"rope.freq_base": 10000.0, "rope.dimension_count": 4}),
    "falcon 7b": ("falcon 7b", {"tensor_data_layout": "jploski", "rope.dimension_count": 4}),
}  # fmt: skip


@pytest.mark.parametrize("case", HARMLESS)
def test_keys_that_say_what_is_so_anyway_change_nothing(case: str, tmp_path: Path) -> None:
    name, keys = HARMLESS[case]
    architecture, config = MODELS[name]
    model = causal(config())
    plain = open_checkpoint(write_gguf(model, architecture, tmp_path / "plain.gguf"))
    said = open_checkpoint(write_gguf(model, architecture, tmp_path / "said.gguf", tokenizer=SAID, **keys))
    assert said.spec == plain.spec


@pytest.mark.parametrize("betas", [{}, {"beta_fast": 8.0, "beta_slow": 2.0}])
@torch.inference_mode()
def test_yarn_and_where_its_ramp_stands(betas: dict[str, float], tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, **betas}
    model = causal(of("Qwen3", head_dim=16, rope_scaling=scaling))
    keys = YARN | {f"rope.scaling.yarn_{name}": value for name, value in betas.items()}
    keys |= {"rope.scaling.yarn_ext_factor": 1.0, "rope.scaling.yarn_attn_factor": 1.0} if betas else {}
    checkpoint = open_checkpoint(write_gguf(model, "qwen3", tmp_path / "m.gguf", **keys))
    decoder = Decoder(checkpoint.spec).eval()  # type: ignore[arg-type]
    decoder.load_state_dict(dict(checkpoint.state()), assign=True)
    torch.testing.assert_close(decoder(TEXT), model(TEXT).logits, atol=1e-4, rtol=1e-4)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "sigmoid experts": ("mixtral", {"expert_gating_func": 2}, "expert_gating_func is 2"),
    "another width": ("olmoe", {"expert_feed_forward_length": 12}, "expert_feed_forward_length is 12"),
    "two heads' widths": ("gemma3", {"attention.key_length_swa": 4}, "attention.key_length_swa is 4"),
    "another yarn": ("qwen3", YARN | {"rope.scaling.yarn_ext_factor": 0.5}, "yarn_ext_factor is 0.5"),
    "two epsilons": ("qwen3", {"attention.layer_norm_epsilon": 0.5}, "is 0.5, .* only a model without it is"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_key_that_means_something_else_is_refused_by_name(case: str, tmp_path: Path) -> None:
    name, keys, said = REFUSED[case]
    architecture, config = MODELS[name]
    with pytest.raises(Fault, match=said):
        open_checkpoint(write_gguf(causal(config()), architecture, tmp_path / "m.gguf", **keys))


def test_an_array_a_layer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_embedding_length(16)
    writer.add_array("llama.attention.head_count", [4, 2])
    writer.add_tensor("token_embd.weight", torch.zeros(8, 16).numpy())
    closed(writer)
    with pytest.raises(Fault, match=r"attention.head_count is \[4, 2\], not a whole number"):
        open_checkpoint(path)


PARTS: dict[str, tuple[dict[str, Any], str]] = {
    "first part": ({"split.no": 0, "split.count": 3, "split.tensors.count": 12}, "part 1 of 3 .* --merge"),
    "a later part": ({"split.no": 2, "split.count": 3}, "part 3 of 3 .* --merge"),
    "an adapter": ({"general.type": "adapter"}, "holds 'adapter', not a whole model"),
    "eyes": ({"general.type": "mmproj"}, "holds 'mmproj', not a whole model"),
}


@pytest.mark.parametrize("case", PARTS)
def test_what_is_no_whole_model_says_so(case: str, tmp_path: Path) -> None:
    keys, said = PARTS[case]
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    for key, value in keys.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint16)(key, value)
    writer.add_tensor("blk.0.attn_norm.weight", torch.ones(8).numpy())
    closed(writer)
    with pytest.raises(Fault, match=said):
        open_checkpoint(path)


@pytest.mark.parametrize("start", ["two", 1.5, True])
def test_t5_begins_with_a_token(start: Any, tmp_path: Path) -> None:
    config = hf.T5Config(
        vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4, decoder_start_token_id=0
    )
    path = write_gguf(hf.T5ForConditionalGeneration(config), "t5", tmp_path / "m.gguf", decoder_start_token_id=start)
    with pytest.raises(Fault, match=r"decoder_start_token_id is .* not a token's id"):
        open_checkpoint(path)


def closed(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
