"""Every architecture that GGUF holds: a tiny transformers model, written as llama.cpp lays it out, read by us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from gguf_writer import write_gguf

from openbook.errors import Fault
from openbook.lm.decoder import Decoder
from openbook.lm.encoder import Encoder
from openbook.lm.seq2seq import Seq2Seq
from openbook.lm.weights.checkpoint import open_checkpoint

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def causal(config: Any) -> Any:
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # biases and norms away from 0 and 1
            if parameter.dim() == 1 or "bias" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def of(kind: str, **changes: Any) -> Any:
    return getattr(hf, f"{kind}Config")(**{**SIZES, **changes})


SLIDING, FULL = "sliding_attention", "full_attention"
MODELS: dict[str, tuple[str, Any]] = {
    "llama": ("llama", lambda: of("Llama", tie_word_embeddings=True)),
    "mistral": ("llama", lambda: of("Mistral", sliding_window=5)),
    "mixtral": ("llama", lambda: of("Mixtral", num_local_experts=4, num_experts_per_tok=2, sliding_window=None)),
    "qwen2": ("qwen2", lambda: of("Qwen2")),
    "qwen3": ("qwen3", lambda: of("Qwen3", head_dim=8)),
    "qwen3moe": (
        "qwen3moe",
        lambda: of(
            "Qwen3Moe", head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, norm_topk_prob=True
        ),
    ),
    "olmoe": ("olmoe", lambda: of("Olmoe", num_experts=4, num_experts_per_tok=2, norm_topk_prob=False)),
    "gemma2": (
        "gemma2",
        lambda: of("Gemma2", head_dim=8, sliding_window=5, query_pre_attn_scalar=8, num_hidden_layers=3),
    ),
    "gemma3": (
        "gemma3",
        lambda: of("Gemma3Text", head_dim=8, sliding_window=5, query_pre_attn_scalar=8, num_hidden_layers=7),
    ),
    "phi3": ("phi3", lambda: of("Phi3", sliding_window=5)),
    "falcon 7b": (
        "falcon",
        lambda: of(
            "Falcon",
            ffn_hidden_size=24,
            multi_query=True,
            parallel_attn=True,
            bias=False,
            num_kv_heads=None,
            alibi=False,
        ),
    ),
    "falcon 40b": (
        "falcon",
        lambda: of("Falcon", ffn_hidden_size=24, new_decoder_architecture=True, num_kv_heads=2, bias=False),
    ),
    "gpt2": (
        "gpt2",
        lambda: hf.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=4, n_positions=64, n_inner=24),
    ),
}
TEXT = torch.randint(1, 40, (1, 14), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", MODELS)
@torch.inference_mode()
def test_a_decoder_from_gguf_is_the_model_it_was_written_from(case: str, tmp_path: Path) -> None:
    architecture, config = MODELS[case]
    model = causal(config())
    checkpoint = open_checkpoint(write_gguf(model, architecture, tmp_path / "m.gguf"))
    decoder = Decoder(checkpoint.spec).eval()
    decoder.load_state_dict(dict(checkpoint.state()), assign=True)
    torch.testing.assert_close(decoder(TEXT), model(TEXT).logits, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_an_encoder_from_gguf_is_the_model_it_was_written_from(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = hf.BertModel(hf.BertConfig(**SIZES | {"num_key_value_heads": 4}), add_pooling_layer=False).eval()
    checkpoint = open_checkpoint(write_gguf(model, "bert", tmp_path / "m.gguf", **{"attention.causal": False}))
    encoder = Encoder(checkpoint.spec).eval()
    encoder.load_state_dict(dict(checkpoint.state()), assign=True)
    torch.testing.assert_close(encoder(TEXT), model(TEXT).last_hidden_state, atol=1e-4, rtol=1e-4)


LONGROPE = {"long": [2.0, 3.0], "short": [1.0, 1.5]}


@torch.inference_mode()
def test_longrope_of_a_gguf(tmp_path: Path) -> None:
    scaling = {"rope_type": "longrope", "long_factor": LONGROPE["long"], "short_factor": LONGROPE["short"]}
    config = of("Phi3", rope_scaling=scaling, original_max_position_embeddings=16, sliding_window=None)
    model = causal(config)
    factor = (1 + torch.log(torch.tensor(64 / 16)) / torch.log(torch.tensor(16.0))).sqrt().item()
    keys = {"rope.scaling.original_context_length": 16, "rope.scaling.attn_factor": factor}
    extra = {f"rope_factors_{name}.weight": torch.tensor(values) for name, values in LONGROPE.items()}
    checkpoint = open_checkpoint(write_gguf(model, "phi3", tmp_path / "m.gguf", extra=extra, **keys))
    decoder = Decoder(checkpoint.spec).eval()
    decoder.load_state_dict(dict(checkpoint.state()), assign=True)
    for length in (14, 20):  # under and over the original length
        text = torch.randint(1, 40, (1, length), generator=torch.Generator().manual_seed(length))
        torch.testing.assert_close(decoder(text), model(text).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "changes", "says"),
    [
        ("qwen3", {"attention.scale": 0.5}, "attention.scale is a field"),
        ("qwen3", {"rope.scaling.type": "spiral"}, "rope.scaling.type is 'spiral'"),
        ("qwen3", {"attention.value_length": 4}, "attention.value_length is 4"),
        ("qwen3", {"attention.head_count": 3}, "kv_heads must divide heads"),
        ("qwen3", {"attention.head_count": 0}, "attention.head_count is 0"),
        ("qwen3", {"block_count": None}, "block_count is missing"),
    ],
)
def test_what_a_gguf_may_not_say_is_named(
    architecture: str, changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    model = causal(of("Qwen3", head_dim=8))
    with pytest.raises(Fault, match=says):
        open_checkpoint(write_gguf(model, architecture, tmp_path / "m.gguf", **changes))


@pytest.mark.parametrize("gated", [False, True])
@torch.inference_mode()
def test_t5_from_gguf_is_the_model_it_was_written_from(gated: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = hf.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_decoder_layers=3, num_heads=2,
        relative_attention_num_buckets=8, decoder_start_token_id=0, tie_word_embeddings=not gated,
        feed_forward_proj="gated-gelu" if gated else "relu",
    )  # fmt: skip
    model = hf.T5ForConditionalGeneration(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.embedding_dim == 2:
            module.weight.normal_()  # distances that count
    checkpoint = open_checkpoint(write_gguf(model, "t5", tmp_path / "m.gguf"))
    ours = Seq2Seq.load(checkpoint.spec, checkpoint.state())
    written = TEXT[:, :6]
    expected = model(input_ids=TEXT, decoder_input_ids=written).logits
    torch.testing.assert_close(ours(written, memory=ours.encode(TEXT)), expected, atol=1e-4, rtol=1e-4)
