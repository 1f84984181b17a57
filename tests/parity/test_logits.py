"""The runner and the small real models against transformers, same weights, fp32."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.home import home
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.encoder import load_encoder
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
    got = torch.from_numpy(load_encoder(device="cpu", fetch=False, backend="torch").embed(texts))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
