"""The decoder and the encoder against transformers, same weights, fp32."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.home import home
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.encoder import Encoder, load_encoder
from openbook.lm.model import load_model
from openbook.lm.weights.checkpoint import open_checkpoint

transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")

pulled = pytest.mark.skipif(
    not (home() / "models" / "smollm2").is_dir() or not (home() / "models" / "minilm").is_dir(),
    reason="the small real models are not here; run: openbook models pull --all",
)


def saved(model, folder):
    """The oracle in evaluation mode, and its checkpoint on disk as ours to open."""
    model.eval().save_pretrained(folder, safe_serialization=True)
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "BPE"}}))
    return open_checkpoint(folder)


@st.composite
def llamas(draw):
    kv_heads = draw(st.sampled_from([1, 2, 4]))
    scaling = draw(
        st.sampled_from(
            [
                {"rope_type": "default"},
                {"rope_type": "linear", "factor": 3.0},
                {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 16,
                },
            ]
        )
    )
    return transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=draw(st.sampled_from([8, 12])),
        max_position_embeddings=128,
        rope_parameters={"rope_theta": draw(st.sampled_from([10_000.0, 500_000.0])), **scaling},
        tie_word_embeddings=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )


@given(llamas(), st.integers(0, 99))
@settings(deadline=None, max_examples=12)
def test_llama_logits(tmp_path_factory, config, seed):
    torch.manual_seed(seed)
    oracle = transformers.LlamaForCausalLM(config)
    checkpoint = saved(oracle, tmp_path_factory.mktemp("llama"))
    runner = TorchRunner.load(checkpoint.spec, checkpoint.state(torch.float32), CPU)
    text = torch.randint(0, 97, (2, 40))
    with torch.inference_mode():
        expected = oracle(text).logits
    torch.testing.assert_close(runner.forward(text), expected, atol=1e-4, rtol=0)
    cache = runner.cache([None, None], room=40)
    chunks = [runner.forward(part, cache) for part in text.split([17, 1, 22], dim=1)]
    torch.testing.assert_close(torch.cat(chunks, 1), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("window", [3, 8, 64])
def test_mistral_window_with_the_cache(tmp_path, window):
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=97, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=window, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    oracle = transformers.MistralForCausalLM(config)
    checkpoint = saved(oracle, tmp_path)
    assert all(layer.attention.window == window for layer in checkpoint.spec.layers)
    runner = TorchRunner.load(checkpoint.spec, checkpoint.state(torch.float32), CPU)
    text = torch.randint(0, 97, (1, 30))
    with torch.inference_mode():
        expected = oracle(text).logits
    cache = runner.cache([None], room=30)
    chunks = [runner.forward(part, cache) for part in text.split([8, 1, 1, 20], dim=1)]
    torch.testing.assert_close(torch.cat(chunks, 1), expected, atol=1e-4, rtol=0)


def test_bert_hidden_states_with_padding(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=97, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=50, initializer_range=0.3,
    )  # fmt: skip
    oracle = transformers.BertModel(config, add_pooling_layer=False)
    checkpoint = saved(oracle, tmp_path)
    with torch.device("meta"):
        encoder = Encoder(checkpoint.spec)
    encoder.load_state_dict(dict(checkpoint.state(torch.float32)), assign=True)
    text = torch.randint(0, 97, (2, 20))
    mask = torch.ones_like(text)
    mask[1, 13:] = 0
    positions = torch.arange(20).expand(2, 20).clone()
    positions[1, 13:] = -1
    with torch.inference_mode():
        expected = oracle(text, attention_mask=mask).last_hidden_state
        got = encoder(text, positions)
    torch.testing.assert_close(got[0], expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(got[1, :13], expected[1, :13], atol=1e-5, rtol=0)


@pulled
def test_smollm2_logits():
    folder = home() / "models" / "smollm2"
    (file,) = folder.glob("*.gguf")
    oracle = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
    model = load_model("smollm2", precision="fp32", device="cpu", fetch=False)
    text = torch.tensor([model.tokenizer.encode("The comet was first seen in 1843, by sailors off the coast. " * 4)])
    with torch.inference_mode():
        expected = oracle.eval()(text).logits
    torch.testing.assert_close(model.runner.forward(text), expected, atol=1e-4, rtol=0)


@pulled
def test_minilm_embeddings():
    folder = home() / "models" / "minilm"
    oracle = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    pieces = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["A comet.", "The observatory measured a tail of 4.7 million kilometres. " * 40, "彗星 was seen", ""]
    batch = pieces(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        hidden = oracle(**batch).last_hidden_state
    real = batch["attention_mask"][..., None]
    expected = torch.nn.functional.normalize((hidden * real).sum(1) / real.sum(1), dim=-1)
    got = torch.from_numpy(load_encoder(device="cpu", fetch=False).embed(texts))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
