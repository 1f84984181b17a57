"""Encoder–decoders against torch's Transformer and transformers' BART, mBART and T5, each of their features on."""

from __future__ import annotations

import json
import math
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from families import pair
from hypothesis import given, settings
from hypothesis import strategies as st
from number_tokens import with_tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.t5.modeling_t5 import T5Attention

from openbook.errors import Fault
from openbook.lm.cache.codecs import codec_named
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.make import CacheSpec, make_cache
from openbook.lm.cache.protocol import Transient
from openbook.lm.classifier import load_classifier
from openbook.lm.decoding.beam import Beams
from openbook.lm.encoder import load_encoder
from openbook.lm.model import load_model
from openbook.lm.positions import RelativeBias
from openbook.lm.seq2seq import Continuations, Seq2Seq, Seq2SeqModel, classic, load_seq2seq
from openbook.lm.spec import Seq2SeqSpec, SpecError
from openbook.lm.stack import Memory
from openbook.lm.weights.checkpoint import Checkpoint, open_checkpoint
from openbook.lm.weights.config import spec_from_config

V, M, S, T = 43, 24, 7, 6
TOLERANCE = 1e-4
# Two texts to read, the second shorter; their padding is at the end.
READ = torch.randint(3, V, (2, S), generator=torch.Generator().manual_seed(1))
READ_POSITIONS = torch.arange(S).repeat(2, 1).masked_fill(torch.tensor([[False] * S, [False] * 4 + [True] * 3]), -1)
WRITE = torch.randint(3, V, (2, T), generator=torch.Generator().manual_seed(2))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


def dense(spec: Seq2SeqSpec, batch: int, capacity: int) -> Cache:
    return make_cache(spec.decoder, CacheSpec("dense"), batch, capacity, torch.float32, torch.device("cpu"))


@torch.no_grad()
def every_way(model: Seq2Seq, memory: Memory) -> None:
    """Without a cache = token by token = in chunks, whatever stands beside in the batch."""
    whole = model(WRITE, memory=memory)
    for sizes in ([1] * T, [T], [2, 3, 1]):
        cache = dense(model.spec, 2, T)
        parts = [model(part, cache=cache, memory=memory) for part in WRITE.split(sizes, dim=1)]
        close(torch.cat(parts, dim=1), whole)
    # Left-padded: the second row's text is shorter and stands at the right.
    tokens, positions = WRITE.clone(), torch.arange(T).repeat(2, 1)
    tokens[1, 2:], positions[1] = WRITE[1, : T - 2], torch.arange(T) - 2
    positions.clamp_(min=-1)
    cache = dense(model.spec, 2, T)
    padded = torch.cat([model(tokens[:, a:b], positions[:, a:b], cache, memory=memory) for a, b in ((0, 4), (4, T))], 1)
    close(padded[0], whole[0])
    close(padded[1, 2:], whole[1, : T - 2])


# The classic Transformer: torch's own layers, weights copied by hand.


def sinusoidal(length: int) -> Tensor:
    """Section 3.5, a number at a time."""
    table = [
        [(math.cos if i % 2 else math.sin)(p / 10_000 ** ((i - i % 2) / M)) for i in range(M)] for p in range(length)
    ]
    return torch.tensor(table)


def copied(theirs: nn.MultiheadAttention, query: nn.Linear, key: nn.Linear, value: nn.Linear, out: nn.Linear) -> None:
    theirs.in_proj_weight.copy_(torch.cat([query.weight, key.weight, value.weight]))
    theirs.in_proj_bias.copy_(torch.cat([query.bias, key.bias, value.bias]))
    theirs.out_proj.load_state_dict(out.state_dict())


def torch_stack(stack: Any, spec: Seq2SeqSpec, pre: bool, decodes: bool) -> nn.Module:
    """torch's encoder or decoder with the weights of ours."""
    kind = nn.TransformerDecoderLayer if decodes else nn.TransformerEncoderLayer
    attention = spec.encoder.layers[0].attention
    layer = kind(M, attention.heads, 40, 0.0, "relu", 1e-5, batch_first=True, norm_first=pre)
    norm = nn.LayerNorm(M) if pre else None
    count = len(stack.layers)
    theirs: Any
    theirs = nn.TransformerDecoder(layer, count, norm) if decodes else nn.TransformerEncoder(layer, count, norm, False)
    for ours, its in zip(stack.layers, theirs.layers, strict=True):
        kv = ours.key_value
        copied(its.self_attn, ours.attention.query, kv.key, kv.value, ours.attention.out)
        norms = [ours.attention_norm, ours.feed_forward_norm]
        if decodes:
            kv = ours.cross_key_value
            copied(its.multihead_attn, ours.cross.query, kv.key, kv.value, ours.cross.out)
            norms.insert(1, ours.cross_norm)
        its.linear1.load_state_dict(ours.feed_forward.up.state_dict())
        its.linear2.load_state_dict(ours.feed_forward.down.state_dict())
        for place, source in enumerate(norms, 1):
            getattr(its, f"norm{place}").load_state_dict(source.state_dict())
    if norm is not None:
        theirs.norm.load_state_dict(stack.norm.state_dict())
    return theirs.eval()  # type: ignore[no-any-return]


@torch.no_grad()
@pytest.mark.parametrize("place", ["post", "pre"])
def test_the_classic_transformer_is_torchs(place: Any) -> None:
    torch.manual_seed(0)
    spec = classic(V, width=M, heads=3, inner=40, layers=(2, 3), place=place)
    model = Seq2Seq(spec).eval()
    for parameter in model.parameters():  # norms and biases too
        parameter.add_(torch.randn_like(parameter) * 0.1)
    table = model.encoder.embedding.weight

    def embedded(tokens: Tensor) -> Tensor:
        return table[tokens] * math.sqrt(M) + sinusoidal(tokens.shape[1])

    padding = READ_POSITIONS < 0
    encoder = torch_stack(model.encoder, spec, place == "pre", decodes=False)
    decoder = torch_stack(model.decoder, spec, place == "pre", decodes=True)
    memory = encoder(embedded(READ), src_key_padding_mask=padding)
    future = torch.triu(torch.ones(T, T, dtype=torch.bool), 1)
    theirs = decoder(embedded(WRITE), memory, tgt_mask=future, memory_key_padding_mask=padding) @ table.T
    ours = model.encode(READ, READ_POSITIONS)
    close(model(WRITE, memory=ours), theirs)
    every_way(model, ours)


def test_heads_divide_the_width() -> None:
    with pytest.raises(SpecError, match="5 heads do not divide the width 24"):
        classic(V, width=M, heads=5)


# transformers' families, every feature on.

BART: dict[str, Any] = {
    "vocab_size": V,
    "d_model": M,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 16,
}
T5: dict[str, Any] = {
    "vocab_size": V,
    "d_model": M,
    "d_kv": 5,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 6,
    "decoder_start_token_id": 0,
}
CASES: dict[str, tuple[Any, Any]] = {
    "bart": (BartForConditionalGeneration, BartConfig(**BART)),
    "bart, scaled": (
        BartForConditionalGeneration,
        BartConfig(**BART, scale_embedding=True, activation_function="relu"),
    ),
    "mbart": (MBartForConditionalGeneration, MBartConfig(**BART, scale_embedding=True, decoder_start_token_id=4)),
    "t5 1.0": (T5ForConditionalGeneration, T5Config(**T5)),
    "t5 1.1": (T5ForConditionalGeneration, T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "t5 1.1 written by transformers 5": (
        T5ForConditionalGeneration,
        T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
    "mt5": (MT5ForConditionalGeneration, MT5Config(**T5)),
    "t5, silu": (T5ForConditionalGeneration, T5Config(**T5, feed_forward_proj="gated-silu")),
}


def models(case: str, folder: Path) -> tuple[Any, Seq2Seq, Checkpoint]:
    """transformers' model and ours, of one random checkpoint."""
    kind, config = CASES[case]
    oracle, checkpoint = pair(kind, config, folder)
    if case in ("t5 1.1", "mt5"):
        oracle, checkpoint = untied(oracle, config, folder)
    if case == "bart":
        bias = torch.randn(1, V, generator=torch.Generator().manual_seed(6))
        oracle.final_logits_bias.copy_(bias)
        save_file(load_file(folder / "model.safetensors") | {"final_logits_bias": bias}, folder / "model.safetensors")
        checkpoint = open_checkpoint(folder)
    assert isinstance(checkpoint.spec, Seq2SeqSpec)
    return oracle, Seq2Seq.load(checkpoint.spec, checkpoint.state()), checkpoint


def test_a_bias_of_the_logits_that_was_never_stored_is_nought(tmp_path: Path) -> None:
    _, model, _ = models("mbart", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["final_logits_bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    state = dict(checkpoint.state(torch.bfloat16))
    assert state["decoder.head.bias"].dtype == torch.bfloat16 and not state["decoder.head.bias"].any()
    assert isinstance(checkpoint.spec, Seq2SeqSpec)
    memory = Seq2Seq.load(checkpoint.spec, checkpoint.state()).encode(READ)
    close(model.encode(READ).keys_values[0][0], memory.keys_values[0][0])


def test_a_bart_that_was_saved_without_a_head_has_the_embedding_for_one(tmp_path: Path) -> None:
    """As facebook/bart-base is: the class `BartModel`, its names without a prefix."""
    oracle, model, _ = models("bart, scaled", tmp_path / "whole")
    oracle.model.save_pretrained(tmp_path / "bare")
    checkpoint = open_checkpoint(tmp_path / "bare")
    assert checkpoint.spec == model.spec and isinstance(checkpoint.spec, Seq2SeqSpec)
    bare = Seq2Seq.load(checkpoint.spec, checkpoint.state())
    with torch.no_grad():
        close(bare(WRITE, memory=bare.encode(READ)), oracle(input_ids=READ, decoder_input_ids=WRITE).logits)


def untied(oracle: Any, config: Any, folder: Path) -> tuple[Any, Checkpoint]:
    """The checkpoint with a head of its own, as T5 1.1 was published; transformers 5 writes it tied, but reads it."""
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = torch.randn(V, M, generator=torch.Generator().manual_seed(5)) * M**-0.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    said = json.loads((folder / "config.json").read_text())
    said.pop("scale_decoder_outputs", None)
    (folder / "config.json").write_text(json.dumps({**said, "tie_word_embeddings": False}))
    return type(oracle).from_pretrained(folder).eval(), open_checkpoint(folder)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_logits_are_transformers(case: str, tmp_path: Path) -> None:
    oracle, model, _ = models(case, tmp_path)
    mask = (READ_POSITIONS >= 0).long()
    read = {"input_ids": READ.masked_fill(mask == 0, 1), "attention_mask": mask}
    theirs = oracle(**read, decoder_input_ids=WRITE).logits
    memory = model.encode(READ, READ_POSITIONS)
    close(model(WRITE, memory=memory), theirs)
    close(model(WRITE[1:], memory=model.encode(READ[1:, :4])), theirs[1:])
    every_way(model, memory)
    # Left-padded as transformers has it: a text that begins late keeps the positions of its columns.
    columns = torch.arange(T).repeat(2, 1)
    columns[1, :2] = -1
    theirs = oracle(**read, decoder_input_ids=WRITE, decoder_attention_mask=(columns >= 0).long()).logits
    ours = model(WRITE, columns, memory=memory)
    close(ours[0], theirs[0])
    close(ours[1, 2:], theirs[1, 2:])


# Writing.


@settings(max_examples=15, deadline=None)
@given(
    place=st.sampled_from(["post", "pre"]),
    layout=st.sampled_from(["dense", "ring", "paged"]),
    steps=st.lists(st.lists(st.tuples(st.floats(0, 0.99), st.integers(0, V - 1)), min_size=1, max_size=4), max_size=4),
)
def test_continuations_go_on_from_any_row(place: Any, layout: str, steps: list[list[tuple[float, int]]]) -> None:
    """Rows that are forked, dropped and reordered say what a whole reading of each says, of its own text."""
    torch.manual_seed(0)
    model = Seq2Seq(classic(V, width=M, heads=3, inner=40, layers=2, place=place, start=7)).eval()
    memory = model.encode(READ, READ_POSITIONS)
    going = Continuations(model, memory, 5, kind=CacheSpec(layout, block=2))
    log_p = going.start()
    rows: list[tuple[int, list[int]]] = [(0, [7]), (1, [7])]
    for step in steps:
        parents = [int(share * len(rows)) for share, _ in step]
        rows = [(rows[p][0], [*rows[p][1], token]) for p, (_, token) in zip(parents, step, strict=True)]
        log_p = going.step(parents, [token for _, token in step])
    with torch.no_grad():
        for row, (text, tokens) in enumerate(rows):
            whole = model(torch.tensor([tokens]), memory=memory.select([text]))[0, -1].log_softmax(-1)
            torch.testing.assert_close(log_p[row], whole, rtol=0, atol=TOLERANCE)


@settings(max_examples=10, deadline=None)
@given(layout=st.sampled_from(["dense", "ring", "paged"]), codec=st.sampled_from(["raw", "int8", "int4"]))
def test_every_cache_holds_a_decoder_with_memory(layout: str, codec: str) -> None:
    """What comes out of a cache is what the same codec makes of the keys in one forward."""
    torch.manual_seed(0)
    model = Seq2Seq(classic(V, width=M * 2, heads=3, inner=40, layers=2)).eval()
    memory = model.encode(READ, READ_POSITIONS)
    kind = CacheSpec(layout, codec, block=2)
    cache = make_cache(model.spec.decoder, kind, 2, T, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        whole = model(WRITE, cache=Transient(model.spec.decoder, codec_named(codec)), memory=memory)
        parts = [model(part, cache=cache, memory=memory) for part in WRITE.split([2, 1, 3], dim=1)]
    close(torch.cat(parts, dim=1), whole)


def test_a_demanded_token_has_all_of_the_probability() -> None:
    model = Seq2Seq(classic(V, width=M, heads=3, inner=40, layers=1)).eval()
    going = Continuations(model, model.encode(READ[:1]), 3, first=5, last=2)
    assert going.start().exp()[0].nonzero().flatten().tolist() == [5]
    assert (going.step([0], [5]).exp() > 0).all()
    assert going.step([0], [9]).exp()[0].nonzero().flatten().tolist() == [2]


def told(oracle: Any, folder: Path, **more: Any) -> Seq2SeqModel:
    """The checkpoint with a tokenizer, and a configuration of writing that the oracle shares."""
    end, padding = oracle.config.eos_token_id, oracle.config.pad_token_id
    chosen = {"decoder_start_token_id": 4, "eos_token_id": end, "pad_token_id": padding, **more}
    if "forced_eos_token_id" in more:
        chosen["forced_eos_token_id"] = end
    oracle.generation_config = GenerationConfig(**chosen, max_length=11, do_sample=False, use_cache=False)
    oracle.generation_config.save_pretrained(folder)
    return load_seq2seq(with_tokenizer(folder, V, begin=None), precision="fp32", device="cpu")


@torch.no_grad()
@pytest.mark.parametrize("case", ["bart", "mbart", "t5 1.0", "t5 1.1"])
@pytest.mark.parametrize("demands", [{}, {"forced_bos_token_id": 9, "forced_eos_token_id": 2}])
def test_beams_are_transformers(case: str, demands: dict[str, int], tmp_path: Path) -> None:
    """The tokens that generate() gives, forced ones included, for texts searched in one batch; and with any cache."""
    oracle, _, _ = models(case, tmp_path)
    loaded = told(oracle, tmp_path, **demands)
    texts, end = ["w5 w30 w11 w7", "w40"], oracle.config.eos_token_id
    caches = cycle([CacheSpec("dense"), CacheSpec("ring"), CacheSpec("paged", block=3)])
    ways: list[tuple[int, float, Any]]
    ways = [(1, 1.0, False), (2, 1.0, True), (3, 0.0, False), (4, 2.0, False), (4, -1.0, "never")]
    for width, penalty, early in ways:
        found = loaded.search(texts, 10, Beams(width, penalty, early), next(caches))
        for text, best in zip(texts, found, strict=True):
            ids = torch.tensor([loaded.tokenizer.encode(text, special=True)])
            how = {"length_penalty": penalty, "early_stopping": early} if width > 1 else {}
            theirs = oracle.generate(ids, num_beams=width, num_return_sequences=width, **how)
            for ours, row in zip(best, theirs.tolist(), strict=True):
                assert [4, *ours.tokens] == row[: row.index(end) if end in row else None]


@torch.no_grad()
def test_what_is_written_is_text(tmp_path: Path) -> None:
    oracle, _, _ = models("bart", tmp_path)
    loaded = told(oracle, tmp_path)
    ids = torch.tensor([loaded.tokenizer.encode("w5 w6", special=True)])
    expected = [token for token in oracle.generate(ids)[0].tolist()[1:] if token != 2]
    assert loaded.write(["w5 w6"], limit=10) == [" ".join(f"w{token}" for token in expected)]


def test_loading_says_what_does_not_fit(tmp_path: Path) -> None:
    models("bart", tmp_path)
    loaded = load_seq2seq(with_tokenizer(tmp_path, V), precision="fp32", device="cpu")
    with pytest.raises(Fault, match="a text of 22 tokens is too long"):
        loaded.read(["w5 " * 20])
    with pytest.raises(Fault, match="writes from 1 to 16"):
        loaded.continuations(["w5"], limit=17)
    with pytest.raises(Fault, match="nothing to read"):
        loaded.read([])
    wrong: dict[str, Any] = {"forced_bos_token_id": V, "forced_eos_token_id": [2, 3], "decoder_start_token_id": "2"}
    for name, value in wrong.items():
        (tmp_path / "generation_config.json").write_text(json.dumps({name: value}))
        with pytest.raises(Fault, match=f"{name} is "):
            load_seq2seq(tmp_path)
    with pytest.raises(Fault, match="tokenizer has 44 tokens"):
        load_seq2seq(with_tokenizer(tmp_path, V + 1))
    for load in (load_encoder, load_model, load_classifier):
        with pytest.raises(Fault, match="load_seq2seq opens it"):
            load(tmp_path)


# Configurations.


def config(kind: str, **changes: Any) -> dict[str, Any]:
    """What a model's config.json says."""
    model, built = CASES[kind]
    said = {**built.to_diff_dict(), "architectures": [model.__name__], **changes}
    return json.loads(json.dumps(said))  # type: ignore[no-any-return]


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "normalize_before": ("bart", {"normalize_before": True}),
    "add_final_layer_norm": ("bart", {"add_final_layer_norm": True}),
    "normalize_embedding": ("bart", {"normalize_embedding": False}),
    "static_position_embeddings": ("bart", {"static_position_embeddings": True}),
    "extra_pos_embeddings": ("bart", {"extra_pos_embeddings": 0}),
    "tie_word_embeddings": ("mbart", {"tie_word_embeddings": False}),
    "decoder_attention_heads": ("bart", {"decoder_attention_heads": 5}),
    "encoder_layers": ("bart", {"encoder_layers": 0}),
    "activation_function": ("bart", {"activation_function": "swiglu"}),
    "decoder_start_token_id": ("mbart", {"decoder_start_token_id": None}),
    "start token": ("bart", {"decoder_start_token_id": V}),
    "is_encoder_decoder": ("bart", {"is_encoder_decoder": False}),
    "num_hidden_layers": ("bart", {"num_hidden_layers": 9}),
    "rope_theta": ("bart", {"rope_theta": 1e4}),
    "feed_forward_proj": ("t5 1.0", {"feed_forward_proj": "gated-swiglu"}),
    "dense_act_fn": ("t5 1.1", {"dense_act_fn": "relu"}),
    "is_gated_act": ("t5 1.0", {"is_gated_act": True}),
    "d_kv": ("t5 1.0", {"d_kv": 0}),
    "num_heads": ("t5 1.0", {"num_heads": 0}),
    "buckets": ("t5 1.0", {"relative_attention_num_buckets": 7}),
    "max_distance": ("t5 1.0", {"relative_attention_max_distance": 1}),
    "scale_decoder_outputs": ("t5 1.0", {"scale_decoder_outputs": "yes"}),
    "is_decoder": ("t5 1.0", {"is_decoder": True}),
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_changes_the_arithmetic_is_refused_by_name(field: str) -> None:
    kind, changes = REFUSED[field]
    with pytest.raises(Fault, match=field):
        spec_from_config(config(kind, **changes))


SAID = [config(kind) for kind in ("bart", "t5 1.0")]


@settings(max_examples=40, deadline=None)
@given(said=st.sampled_from(SAID), name=st.text(min_size=1, max_size=12), value=st.integers() | st.none())
def test_any_field_is_known_or_refused(said: dict[str, Any], name: str, value: Any) -> None:
    try:
        spec_from_config({**said, name: value})
    except Fault as fault:
        assert name in str(fault) or repr(name) in str(fault) or name in said


def test_fields_of_published_checkpoints_are_known() -> None:
    """Those of facebook/bart-large-cnn and google/flan-t5-small that transformers no longer writes."""
    old_bart = {
        "_num_labels": 3,
        "add_bias_logits": False,
        "add_final_layer_norm": False,
        "classif_dropout": 0.0,
        "force_bos_token_to_be_generated": True,
        "gradient_checkpointing": False,
        "normalize_before": False,
        "num_hidden_layers": 2,
        "output_past": True,
        "prefix": " ",
        "task_specific_params": {"summarization": {"num_beams": 4}},
    }
    old_t5 = {"n_positions": 512, "output_past": True, "dense_act_fn": "gelu_new", "is_gated_act": True}
    assert spec_from_config(config("bart", **old_bart)) == spec_from_config(config("bart"))
    t5 = spec_from_config(config("t5 1.1", **old_t5))
    assert t5 == spec_from_config(config("t5 1.1")) and isinstance(t5, Seq2SeqSpec) and not t5.decoder.tied


@pytest.mark.parametrize("both_ways", [True, False])
def test_buckets_are_transformers_to_the_last_distance(both_ways: bool) -> None:
    distance = torch.arange(-3000, 3001)  # q − k; transformers asks with k − q
    for buckets, most in ((32, 128), (32, 20), (8, 6), (64, 1000)):
        ours = RelativeBias(1, buckets, most, both_ways).bucket(distance)
        theirs = T5Attention._relative_position_bucket(-distance, both_ways, buckets, most)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("again", ["lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
def test_an_embedding_stored_again_must_be_the_same(tmp_path: Path, again: str) -> None:
    config = T5Config(vocab_size=V, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=4)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    for other, fits in ((stored["shared.weight"].clone(), True), (stored["shared.weight"] + 1, False)):
        save_file(stored | {again: other}, tmp_path / "model.safetensors")
        checkpoint = open_checkpoint(tmp_path)
        if fits:
            assert len(dict(checkpoint.state())) == len(checkpoint.made)
            continue
        with pytest.raises(Fault, match=f"{again} differs from shared.weight"):
            list(checkpoint.state())
