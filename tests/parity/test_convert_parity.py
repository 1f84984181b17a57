"""What `openbook convert` writes, read by transformers: the same logits, the same ids of a text; and what it leaves
on the disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openbook.cli import main
from openbook.errors import Fault
from openbook.home import home
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.convert import convert_checkpoint, respec
from openbook.lm.model import load_model
from openbook.lm.tokenizer import Tokenizer
from openbook.lm.weights.checkpoint import open_checkpoint
from openbook.lm.weights.layouts import layout_of
from openbook.lm.weights.save import save

transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")
TEXT = torch.arange(60).reshape(2, 30) % 97
ROPES = {
    "plain": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}  # fmt: skip

GEMMA = {"kind": "Gemma3Text", "sliding_window": 6, "num_hidden_layers": 4, "rope_parameters": None, "pad_token_id": 0}

smollm2 = pytest.mark.skipif(
    not (home() / "models" / "smollm2").is_dir(), reason="the model is not here; run: openbook models pull smollm2"
)


def tiny(folder: Path, kind: str = "Llama", rope: str = "plain", **config) -> Path:
    """A small random model as transformers writes it, with a tokenizer of bytes."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{
        "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 4, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.3,
        "rope_parameters": {"rope_theta": 10_000.0, **ROPES[rope]}, **config,
    })  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}}}))
    return folder


def ours(folder: Path) -> torch.Tensor:
    checkpoint = open_checkpoint(folder)
    return TorchRunner.load(checkpoint.spec, checkpoint.state(torch.float32), CPU).forward(TEXT)


def theirs(folder: Path) -> torch.Tensor:
    model, said = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not said["missing_keys"] and not said["unexpected_keys"]
    with torch.inference_mode():
        return model.eval()(TEXT).logits


@pytest.mark.parametrize(
    ("source", "change", "family"),
    [
        ({}, {"kv_heads": 1}, "LlamaForCausalLM"),
        ({"attention_bias": True, "rope": "llama3"}, {"kv_heads": 2}, "LlamaForCausalLM"),
        ({"num_key_value_heads": 2, "mlp_bias": True, "rope": "linear"}, {"kv_heads": 4}, "LlamaForCausalLM"),
        ({"tie_word_embeddings": True}, {"kv_heads": 2, "window": 5}, "MistralForCausalLM"),
        ({"kind": "Mistral", "sliding_window": 9}, {"window": 4}, "MistralForCausalLM"),
        ({}, {"experts": 4, "active": 2}, "MixtralForCausalLM"),
        ({"rope": "llama3"}, {"kv_heads": 1, "window": 7, "experts": 3}, "MixtralForCausalLM"),
        ({"kind": "Qwen3", "rope": "linear"}, {"kv_heads": 2}, "Qwen3ForCausalLM"),
        ({**GEMMA, "layer_types": ["sliding_attention", "full_attention"] * 2}, {"kv_heads": 1}, "Gemma3ForCausalLM"),
        ({"kind": "Phi3", "pad_token_id": 0}, {"kv_heads": 2}, "Phi3ForCausalLM"),
        ({"kind": "Olmoe", "num_experts": 4, "num_experts_per_tok": 2}, {"kv_heads": 2}, "OlmoeForCausalLM"),
    ],
)
def test_transformers_reads_it(tmp_path, source, change, family):
    checkpoint = open_checkpoint(tiny(tmp_path / "source", **source))
    layout = convert_checkpoint(checkpoint, respec(checkpoint.spec, **change), tmp_path / "made")
    assert layout.architecture == family
    torch.testing.assert_close(ours(tmp_path / "made"), theirs(tmp_path / "made"), atol=1e-4, rtol=0)


def test_experts_and_repeated_heads_write_as_their_source(tmp_path):
    checkpoint = open_checkpoint(tiny(tmp_path / "source", num_key_value_heads=2))
    for name, change in {"heads": {"kv_heads": 4}, "experts": {"experts": 4}, "window": {"window": 30}}.items():
        convert_checkpoint(checkpoint, respec(checkpoint.spec, **change), tmp_path / name)
        torch.testing.assert_close(theirs(tmp_path / name), theirs(tmp_path / "source"), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "change",
    [{"share": 2}, {"window": 4, "pinned": 1}, {"window": 4, "pattern": (2, 1)}, {"experts": 3, "shared": True}],
)
def test_what_no_family_says_is_our_own(tmp_path, change):
    checkpoint = open_checkpoint(tiny(tmp_path / "source"))
    after = respec(checkpoint.spec, **change)
    layout = convert_checkpoint(checkpoint, after, tmp_path / "made")
    assert layout.architecture == "OpenbookForCausalLM"
    assert open_checkpoint(tmp_path / "made").spec == after
    again = open_checkpoint(tmp_path / "made")  # and our own are converted as any other
    convert_checkpoint(again, respec(again.spec, kv_heads=1), tmp_path / "again")
    assert ours(tmp_path / "again").isfinite().all()


def test_shards_are_indexed_and_read_alike(tmp_path):
    source = tiny(tmp_path / "source")
    checkpoint = open_checkpoint(source)
    state = list(checkpoint.state(torch.float32))
    save(tmp_path / "made", checkpoint.spec, state, layout_of(checkpoint.spec), {}, dtype=torch.float32, shard=20_000)
    shards = sorted(path.name for path in (tmp_path / "made").glob("*.safetensors"))
    assert len(shards) > 2 and shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    torch.testing.assert_close(theirs(tmp_path / "made"), theirs(source), atol=0, rtol=0)
    assert torch.equal(ours(tmp_path / "made"), ours(source))


def test_places_that_are_taken(tmp_path):
    source = tiny(tmp_path / "models" / "source")
    checkpoint = open_checkpoint(source)
    after = respec(checkpoint.spec, kv_heads=1)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "thesis.txt").write_text("years of work")
    project, both = tmp_path / "project", tmp_path / "both"
    shutil.copytree(source, both)
    for work in (project / "config.json", both / "work" / "thesis.txt"):  # each program calls its settings so
        work.parent.mkdir(parents=True)
        work.write_text("{}")
    for place, words in (
        (notes, "is no model's folder"), (source, "holds the model that is to be converted"),
        (source.parent, "holds the model that is to be converted"), (notes / "thesis.txt", "is no model's folder"),
        (project, "is no model's folder"), (both, "holds other folders besides a model"),
    ):  # fmt: skip
        with pytest.raises(Fault, match=words):
            convert_checkpoint(checkpoint, after, place, force=True)
    convert_checkpoint(checkpoint, after, tmp_path / "made")
    with pytest.raises(Fault, match="give another place, or --force"):
        convert_checkpoint(checkpoint, after, tmp_path / "made")
    convert_checkpoint(checkpoint, respec(checkpoint.spec, kv_heads=2), tmp_path / "made", force=True)
    assert open_checkpoint(tmp_path / "made").spec.layers[0].attention.kv_heads == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both", "made", "models", "notes", "project"]
    assert (notes / "thesis.txt").read_text() == "years of work"


def test_what_does_not_read_back_is_not_kept(tmp_path):
    checkpoint = open_checkpoint(tiny(tmp_path / "source"))
    state = dict(checkpoint.state(torch.float32))
    layout = layout_of(replace(checkpoint.spec, max_positions=64))
    with pytest.raises(Fault, match="does not read back as the same model"):
        save(tmp_path / "made", checkpoint.spec, state.items(), layout, {})
    del state["norm.weight"]
    with pytest.raises(Fault, match=r"norm\.weight is missing"):
        save(tmp_path / "made", checkpoint.spec, state.items(), layout_of(checkpoint.spec), {})
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


KILLED = """
import os, signal, sys
from pathlib import Path
from openbook.lm.convert import convert_checkpoint, respec
from openbook.lm.weights.checkpoint import open_checkpoint
checkpoint = open_checkpoint(sys.argv[1])
seen = []
def stop(name):
    seen.append(name)
    if len(seen) == 20:
        os.kill(os.getpid(), signal.SIGKILL)
convert_checkpoint(checkpoint, respec(checkpoint.spec, kv_heads=1), Path(sys.argv[2]), progress=stop)
"""


def test_a_kill_leaves_nothing_in_its_place(tmp_path):
    source = tiny(tmp_path / "source")
    done = subprocess.run([sys.executable, "-c", KILLED, source, tmp_path / "made"], check=False, env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "made").exists()


def test_the_command_line(tmp_path, capsys):
    source, made = str(tiny(tmp_path / "source")), str(tmp_path / "made")
    assert main(["convert", source, made, "--kv-heads", "1", "--share", "0,2", "--window", "8", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["architecture"] == "OpenbookForCausalLM" and not facts["transformers"]
    kept = [facts[when]["kv_bytes_per_token"]["fp32"] for when in ("before", "after")]
    assert kept == [2 * 4 * 3 * 4 * 8, 2 * 4 * 2 * 1 * 8]
    for options, status, words in (
        ([], 2, "say what to change"),
        (["--kv-heads", "3", "--force"], 1, "4 query heads do not divide into 3"),
        (["--kv-heads", "2"], 1, "give another place, or --force"),
        (["--share", "two"], 2, "--share takes a number of layers"),
        (["--window", "4", "--pattern", "5"], 2, "--pattern takes local and global"),
        (["--experts", "2", "--active", "3", "--force"], 1, "3 of 2 experts"),
        (["--kv-heads", "1", "--active", "3", "--force"], 2, "say how many there are"),
        (["--share", "2", "--pool", "first", "--force"], 2, "say how many: --kv-heads"),
    ):
        assert main(["convert", source, made, *options]) == status
        assert words in capsys.readouterr().err.replace("\n", " ")
    assert main(["convert", source, made, "--experts", "2", "--force"]) == 0
    assert "MixtralForCausalLM: transformers reads it too" in capsys.readouterr().out


@smollm2
def test_a_gguf_tokenizer_becomes_a_folders(tmp_path):
    (file,) = (home() / "models" / "smollm2").glob("*.gguf")
    source = open_checkpoint(file)
    convert_checkpoint(source, respec(source.spec, kv_heads=1), tmp_path / "made")
    before, after = source.tokenizer(), Tokenizer.from_folder(tmp_path / "made")
    automatic = transformers.AutoTokenizer.from_pretrained(tmp_path / "made")
    messages = [{"role": "system", "content": "Be <|im_end|> brief."}, {"role": "user", "content": "Why, in 1843?"}]
    for text in ("The comet of 1843, seen 12 times.", "  two\n\n spaces\t", "naïve 彗星 🙂 <|im_start|>", ""):
        ids = before.encode(text)
        assert after.encode(text) == ids and after.decode(ids) == before.decode(ids)
        assert automatic.encode(text, add_special_tokens=False) == before.encode_template(text)
    assert after.encode_chat(messages) == before.encode_chat(messages)
    rendered = automatic.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == before.render_chat(messages)
    assert (automatic.bos_token_id, automatic.eos_token_id) == (before.bos_id, 2)
    assert (after.eos_ids, after.control_ids) == (before.eos_ids, before.control_ids)
    assert load_model(tmp_path / "made", device="cpu").spec.kv_bytes_per_token(2) == 7_680
