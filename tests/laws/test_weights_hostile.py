"""Files made to hurt: cut at every length, mutated byte by byte and field by field. Only a `Fault` may come out, in
memory in proportion to the file."""

from __future__ import annotations

import copy
import json
import math
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from openbook.errors import Fault
from openbook.lm.weights.checkpoint import open_checkpoint
from openbook.lm.weights.safetensors import INDEX, SINGLE

M, V = 4, 3
SHAPES: dict[str, tuple[int, ...]] = {
    "embed_tokens": (V, M), "layers.0.input_layernorm": (M,), "layers.0.post_attention_layernorm": (M,), "norm": (M,),
    **{f"layers.0.self_attn.{name}_proj": (M, M) for name in "qkvo"},
    **{f"layers.0.mlp.{name}_proj": (M, M) for name in ("gate", "up", "down")},
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": V, "hidden_size": M,
    "intermediate_size": M, "num_hidden_layers": 1, "num_attention_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip
TENSORS = {f"model.{name}.weight": torch.ones(shape) for name, shape in SHAPES.items()}
ROOM = 128 << 20  # bytes that reading files of a few kilobytes may take, torch's own buffers among them


def outcome(path: Path) -> str:
    """What comes of a file: `whole`, or the one line of a `Fault`."""
    try:
        checkpoint = open_checkpoint(path)
        weights = sum(tensor.numel() for _, tensor in checkpoint.state(torch.float32))
        assert weights == checkpoint.parameters <= 64 * checkpoint.bytes and checkpoint.fingerprint
    except Fault as fault:
        assert "\n" not in str(fault) and len(str(fault)) < 6000
        return str(fault)
    return "whole"


@pytest.fixture(scope="module", autouse=True)
def _memory() -> Any:
    """No test of this module makes the process larger than a little."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < ROOM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model of one layer as safetensors."""
    made = tmp_path_factory.mktemp("folder")
    (made / "config.json").write_text(json.dumps(CONFIG))
    (made / SINGLE).write_bytes(save(TENSORS))
    return made


@pytest.fixture(scope="module")
def whole_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same as GGUF, without the padding at its end."""
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    sizes = {"block_count": 1, "context_length": 32, "embedding_length": M, "feed_forward_length": M}
    for key, number in {**sizes, "attention.head_count": 2}.items():
        writer.add_uint32(f"llama.{key}", number)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_array("a.list", ["x", "yz"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    for name, tensor in TENSORS.items():
        theirs = names.get_name(name, try_suffixes=(".weight",))
        assert theirs is not None
        writer.add_tensor(theirs, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = gguf.GGUFReader(str(path))
    end = max(int(tensor.data_offset + tensor.n_bytes) for tensor in file.tensors)
    return path.read_bytes()[:end]


def test_a_gguf_cut_at_any_length_is_a_fault(whole_gguf: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(whole_gguf)
    assert outcome(path) == "whole"
    for length in range(len(whole_gguf)):
        path.write_bytes(whole_gguf[:length])
        assert str(path) in outcome(path)


def test_safetensors_cut_at_any_length_are_a_fault(folder: Path, tmp_path: Path) -> None:
    content = (folder / SINGLE).read_bytes()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / SINGLE).write_bytes(content)
    assert outcome(tmp_path) == "whole"
    for length in range(len(content)):
        (tmp_path / SINGLE).write_bytes(content[:length])
        assert SINGLE in outcome(tmp_path)
    config = json.dumps(CONFIG)
    for length in range(len(config)):
        (tmp_path / "config.json").write_text(config[:length])
        assert "config.json" in outcome(tmp_path)


# Values that counts, sizes, types and offsets of headers go wrong with.
EDGES = (0, 1, 2, 7, 31, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
change = st.one_of(
    st.tuples(st.just("Q"), st.sampled_from(EDGES)),
    st.tuples(st.just("I"), st.sampled_from(EDGES)),
    st.tuples(st.just("B"), st.integers(0, 255)),
    st.tuples(st.just("cut"), st.integers(1, 40)),
    st.tuples(st.just("twice"), st.integers(1, 40)),
)
changes = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), change), min_size=1, max_size=5)


def mutated(content: bytes, header: int, drawn: list[tuple[float, tuple[str, int]]]) -> bytes:
    """The file with numbers of its header overwritten, pieces cut out or doubled."""
    damaged = bytearray(content)
    for place, (how, value) in drawn:
        at = int(place * header)
        if how == "cut":
            del damaged[at : at + value]
        elif how == "twice":
            damaged[at:at] = damaged[at : at + value]
        else:
            size = struct.calcsize("<" + how)
            damaged[at : at + size] = struct.pack("<" + how, value % (1 << 8 * size))
    return bytes(damaged)


@given(drawn=changes)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mutated_gguf(whole_gguf: bytes, tmp_path: Path, drawn: Any) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(mutated(whole_gguf, len(whole_gguf) - 4 * sum(map(math.prod, SHAPES.values())), drawn))
    outcome(path)


@given(drawn=changes)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mutated_safetensors(folder: Path, tmp_path: Path, drawn: Any) -> None:
    content = (folder / SINGLE).read_bytes()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / SINGLE).write_bytes(mutated(content, 8 + int.from_bytes(content[:8], "little"), drawn))
    outcome(tmp_path)


def packed(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: Any, start: Any, stop: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


number = st.one_of(st.sampled_from(EDGES), st.integers(-5, 70), st.floats(), st.none(), st.text(max_size=2))
DTYPES = ["F32", "F16", "BF16", "F64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "XX", None, 1]


@given(
    name=st.sampled_from([*TENSORS, "more", "__metadata__", "\n", ""]),
    field=st.sampled_from([0, 1, "dtype", "data_offsets", "shape", "whole"]),
    value=st.one_of(number, st.lists(number, max_size=3), st.sampled_from(DTYPES)),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_field_of_a_safetensors_header(folder: Path, tmp_path: Path, name: str, field: Any, value: Any) -> None:
    content = (folder / SINGLE).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    if field == "whole" or name not in header:
        header[name] = value if field == "whole" else entry(value, 0, 4)
    elif isinstance(field, int):
        header[name]["data_offsets"][field] = value
    else:
        header[name][field] = value
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / SINGLE).write_bytes(packed(header, content[8 + size :]))
    outcome(tmp_path)


FIRST = next(iter(TENSORS))
WRONG: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not a whole safetensors file"),
    "an endless header": (struct.pack("<Q", 2**63) + b"{}", "header"),
    "a header past the end": (struct.pack("<Q", 10**8 - 1) + b"{}", "header"),
    "nested": (packed(b"[" * 100_000), "not a whole"),
    "an object": (packed(b"{}"), f"{len(TENSORS)} tensors .* are missing"),
    "the same bytes twice": (packed({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, bytes(4)), "offset"),
    "overlapping": (packed({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)), "offset"),
    "a hole": (packed({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)), "offset"),
    "bytes at the end": (packed({"a": entry([1], 0, 4)}, bytes(8)), "not fully covered"),
    "more than there is": (packed({"a": entry([2**40], 0, 2**42)}, bytes(8)), "not fully covered"),
    "a size that overflows": (packed({"a": entry([2**62, 4], 0, 8)}, bytes(8)), "overflow"),
    "sizes of nothing": (packed({FIRST: entry([0, 2**62], 0, 0)}), r"of shape \[0, 4611686018427387904\]"),
    "a thousand dimensions": (packed({FIRST: entry([1] * 1000, 0, 4)}, bytes(4)), r"1, 1, …\], but .* says \[3, 4\]"),
    "a name of a page": (packed({"x" * 5000: entry([1], 0, 4)}, bytes(4)), "names a tensor 'xxx"),
    "a name of two lines": (packed({"a\nb": entry([1], 0, 4)}, bytes(4)), r"names a tensor 'a\\nb'"),
    # Of two entries with one name the library takes the last; bytes that only the first names are not covered.
    "a name twice": (
        packed(json.dumps({"a": entry([2], 0, 8), "b": entry([1], 0, 4)}).replace("b", "a").encode(), bytes(8)),
        "not fully covered",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_safetensors_is_said(case: str, tmp_path: Path) -> None:
    content, said = WRONG[case]
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / SINGLE).write_bytes(content)
    with pytest.raises(Fault, match=said):
        open_checkpoint(tmp_path)


def test_a_tensor_of_something_else_than_floats_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for dtype in (torch.int8, torch.float8_e4m3fn, torch.bool):
        (tmp_path / SINGLE).write_bytes(save({**TENSORS, FIRST: TENSORS[FIRST].to(dtype)}))
        assert f"tensor {FIRST} is stored as" in outcome(tmp_path)


def sharded(folder: Path) -> dict[str, Any]:
    """The model in two shards; its index."""
    names = sorted(TENSORS)
    parts = {f"model-{part}-of-2.safetensors": names[part::2] for part in (0, 1)}
    for file, held in parts.items():
        (folder / file).write_bytes(save({name: TENSORS[name] for name in held}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return {"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}


Index = Callable[[dict[str, Any]], Any]


def named(file: Any) -> Index:
    return lambda index: index["weight_map"].update({FIRST: file})


INDEXES: dict[str, tuple[Index, str]] = {
    "another shard": (named("model-2-of-2.safetensors"), "model-2-of-2.safetensors is missing, and the index names it"),
    "a file elsewhere": (named("../model.safetensors"), "which is not a safetensors file of its folder"),
    "an absolute path": (named("/etc/passwd"), "which is not a safetensors file of its folder"),
    "another kind": (named("config.json"), "which is not a safetensors file of its folder"),
    "a number": (named(7), "which is not a safetensors file of its folder"),
    "a long name": (named("x" * 5000 + ".safetensors"), "which is not a safetensors file of its folder"),
    "a zero byte": (named("\0.safetensors"), "missing"),
    "no map": (lambda index: index.pop("weight_map"), "has no weight_map"),
    "a list": (lambda index: index.update(weight_map=["a"]), "has no weight_map"),
    "one shard alone": (
        lambda index: index.update(weight_map={FIRST: "model-0-of-2.safetensors"}),
        r"tensors \(.*model\.layers\.0.*\) are missing",
    ),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_names_shards_of_its_folder(case: str, tmp_path: Path) -> None:
    index = sharded(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert outcome(tmp_path) == "whole"
    changed, said = copy.deepcopy(index), INDEXES[case]
    said[0](changed)
    (tmp_path / INDEX).write_text(json.dumps(changed))
    with pytest.raises(Fault, match=said[1]):
        open_checkpoint(tmp_path)


def test_shards_of_two_models_do_not_belong_together(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps(sharded(tmp_path)))
    (tmp_path / "model-1-of-2.safetensors").write_bytes(save(TENSORS))
    with pytest.raises(Fault, match="a second time; the shards do not belong together"):
        open_checkpoint(tmp_path)


def test_a_layout_of_experts_that_nothing_bounds(tmp_path: Path) -> None:
    """More experts than could be named one by one, in a file of many tensors: it neither hangs nor fills memory."""
    experts = {"num_local_experts": 3000, "num_experts_per_tok": 2, "num_hidden_layers": 512}
    kind = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_key_value_heads": 2}
    config = {**CONFIG, **kind, **experts}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / SINGLE).write_bytes(save({f"t.{i}": torch.ones(1) for i in range(3000)}))
    said = outcome(tmp_path)
    assert "are missing" in said and "t.{" not in said[:20]


ENDLESS: dict[str, tuple[dict[str, Any], str]] = {
    "heads with ALiBi": (
        {
            "architectures": ["FalconForCausalLM"], "vocab_size": V, "hidden_size": 2**31, "num_hidden_layers": 1,
            "num_attention_heads": 2**31, "ffn_hidden_size": 4, "alibi": True,
        },
        "position biases of 2147483648 heads are not built",
    ),
    "layers": ({**CONFIG, "num_hidden_layers": 2**31}, "at most 4096 layers"),
    "words": ({**CONFIG, "vocab_size": 2**31}, r"embed_tokens\.weight is of shape \[3, 4\], .* says \[2147483648, 4\]"),
    "a wide head": ({**CONFIG, "head_dim": 2**31}, r"says \[4294967296, 4\]"),
    "a name of megabytes": ({**CONFIG, "architectures": ["x" * 2**21]}, r"'xxx.* is not supported"),
    "a value of megabytes": ({**CONFIG, "hidden_act": "x" * 2**21}, r"hidden_act is 'xxx.*…"),
    "a field of megabytes": ({**CONFIG, "x" * 2**21: 1}, r"xxx…xxx.* is a field openbook does not know"),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDLESS)
def test_endless_claims_of_a_config(case: str, folder: Path, tmp_path: Path) -> None:
    config, said = ENDLESS[case]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / SINGLE).write_bytes((folder / SINGLE).read_bytes())
    with pytest.raises(Fault, match=said):
        open_checkpoint(tmp_path)
    assert len(outcome(tmp_path)) < 2000
