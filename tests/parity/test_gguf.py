"""GGUF files, read by us and by the `gguf` package; and files that are wrong in every way we could think of."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize as oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openbook.errors import Fault
from openbook.home import home
from openbook.lm.weights.checkpoint import open_checkpoint
from openbook.lm.weights.gguf import GGUFFile
from openbook.lm.weights.quants import CHUNK, KIND_NAMES, QUANTS, dequantize

KINDS = sorted(QUANTS)
SMOLLM2 = home() / "models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
real = pytest.mark.skipif(not SMOLLM2.is_file(), reason="needs: openbook models pull smollm2")


def same_bits(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    return np.array_equal(left, right, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_every_kind_unpacks_random_bytes_as_gguf_does(kind: str, data: st.DataObject) -> None:
    quant = QUANTS[kind]
    blocks = data.draw(st.integers(1, 40))
    seed = data.draw(st.integers(0, 2**32 - 1))
    raw = np.random.default_rng(seed).integers(0, 256, (blocks, quant.bytes), dtype=np.uint8)
    out = torch.empty(blocks * quant.weights)
    dequantize(quant, raw.reshape(-1), out)
    with np.errstate(all="ignore"):
        expected = oracle(raw, gguf.GGMLQuantizationType[kind]).reshape(-1)
    assert same_bits(out.numpy(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_do_not_show(kind: str) -> None:
    quant = QUANTS[kind]
    blocks = 2 * CHUNK // quant.weights + 3
    raw = np.random.default_rng(1).integers(0, 256, (blocks, quant.bytes), dtype=np.uint8)
    out = torch.empty(blocks * quant.weights)
    dequantize(quant, raw.reshape(-1), out)
    with np.errstate(all="ignore"):
        assert same_bits(out.numpy(), oracle(raw, gguf.GGMLQuantizationType[kind]).reshape(-1))


def test_names_of_kinds_are_those_of_gguf() -> None:
    ours = {number: name for number, name in KIND_NAMES.items() if name in gguf.GGMLQuantizationType.__members__}
    assert ours == {kind.value: kind.name for kind in gguf.GGMLQuantizationType if kind.value in ours}
    assert set(QUANTS) <= set(ours.values())
    for name, quant in QUANTS.items():
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]] == (quant.weights, quant.bytes)


def write(path: Path, kinds: list[str] = KINDS, **metadata: Any) -> Path:
    """A small file with one tensor [2, 256] of each kind, of random bytes, and one value of each metadata type."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_uint8("a.uint8", 7)
    writer.add_int16("a.int16", -7)
    writer.add_float32("a.float32", 0.5)
    writer.add_float64("a.float64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_uint64("a.uint64", 2**40)
    writer.add_string("a.string", "Grüße, 世界")
    writer.add_array("a.strings", ["x", "", "▁y"])
    writer.add_array("a.ints", [1, -2, 3])
    for key, value in metadata.items():
        writer.add_uint32(key, value)
    random = np.random.default_rng(3)
    for kind in kinds:
        quant = QUANTS[kind]
        raw = random.integers(0, 256, (2, 256 // quant.weights * quant.bytes), dtype=np.uint8)
        writer.add_tensor(f"t.{kind}", raw, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "small.gguf")


def test_a_written_file_is_read_back(small: Path) -> None:
    file = GGUFFile.open(small)
    assert file.metadata["a.uint8"] == 7 and file.metadata["a.int16"] == -7 and file.metadata["a.uint64"] == 2**40
    assert file.metadata["a.float32"] == 0.5 and file.metadata["a.float64"] == 0.1 and file.metadata["a.bool"] is True
    assert file.metadata["a.string"] == "Grüße, 世界" and file.metadata["a.strings"] == ["x", "", "▁y"]
    assert file.metadata["a.ints"] == [1, -2, 3]
    reader = gguf.GGUFReader(str(small))
    assert [t.name for t in reader.tensors] == list(file.tensors)
    for tensor in reader.tensors:
        info = file.tensors[tensor.name]
        assert info.shape == (2, 256) and info.kind == tensor.tensor_type.name
        assert info.nbytes == tensor.n_bytes and info.offset == tensor.data_offset
        with np.errstate(all="ignore"):
            expected = oracle(tensor.data, tensor.tensor_type).reshape(2, 256)
        assert same_bits(file.tensor(tensor.name).numpy(), expected)
    assert file.kinds() == dict.fromkeys(KINDS, 1)


def test_another_alignment_is_followed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", ["F32", "Q8_0"])
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_custom_alignment(256)
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    writer.add_tensor("x", values)
    writer.add_tensor("y", values + 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile.open(path)
    assert np.array_equal(file.tensor("x").numpy(), values) and np.array_equal(file.tensor("y").numpy(), values + 1)


def test_truncated_anywhere_is_a_fault(small: Path, tmp_path: Path) -> None:
    whole = small.read_bytes()
    data_start = GGUFFile.open(small).data_start
    last = max(GGUFFile.open(small).tensors.values(), key=lambda info: info.offset)
    cut = tmp_path / "cut.gguf"
    needed = last.offset + last.nbytes  # what follows is padding
    for length in sorted({*range(0, 200), *range(200, data_start, 7), *range(data_start, needed, 501), needed - 1}):
        cut.write_bytes(whole[:length])
        with pytest.raises(Fault, match=r"cut\.gguf") as caught:
            GGUFFile.open(cut)
        assert "\n" not in str(caught.value)
    assert "truncated: tensor" in str(caught.value) and "download it again" in str(caught.value)
    cut.write_bytes(whole[:needed])
    GGUFFile.open(cut)


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_load_or_are_a_fault(small: Path, tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(small.read_bytes())
    header = GGUFFile.open(small).data_start
    flips = data.draw(st.lists(st.tuples(st.integers(0, header), st.integers(0, 255)), min_size=1, max_size=6))
    for place, value in flips:
        damaged[place] = value
    path = tmp_path / "flipped.gguf"
    path.write_bytes(damaged)
    try:
        file = GGUFFile.open(path)
        for name in file.tensors:
            assert file.tensor(name).numel() * 4 <= 64 * len(damaged)
    except Fault:
        return


@given(junk=st.binary(max_size=400), version=st.sampled_from([1, 2, 3, 4]))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junk_after_the_magic_is_a_fault_or_an_empty_file(tmp_path: Path, junk: bytes, version: int) -> None:
    path = tmp_path / "junk.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", version) + junk)
    try:
        assert len(GGUFFile.open(path).tensors) < 20
    except Fault:
        return


def header(tensors: int, keys: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def declared(name: str, sizes: list[int], kind: int, offset: int) -> bytes:
    return string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


BAD = {
    "nothing": (b"", "cannot be read"),
    "another format": (b"PK\x03\x04" + bytes(100), "not a GGUF file"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "version 1": (header(0, 0, version=1), "version 1"),
    "endless tensors": (header(2**63, 0), "at most"),
    "endless keys": (header(0, 2**63), "at most"),
    "an endless string": (header(0, 1, struct.pack("<Q", 2**62)), "at most"),
    "an endless array": (header(0, 1, string("a") + struct.pack("<IIQ", 9, 6, 2**61)), "at most"),
    "an array past the end": (header(0, 1, string("a") + struct.pack("<IIQ", 9, 6, 1000)), "truncated"),
    "arrays of arrays": (header(0, 1, string("a") + struct.pack("<IIQ", 9, 9, 4)), "array of type 9"),
    "an unknown type": (header(0, 1, string("a") + struct.pack("<I", 77)), "unknown type 77"),
    "not UTF-8": (header(0, 1, struct.pack("<Q", 2) + b"\xff\xfe"), "not UTF-8"),
    "a key twice": (header(0, 2, 2 * (string("a") + struct.pack("<IB", 0, 1))), "twice"),
    "alignment 0": (header(0, 1, string("general.alignment") + struct.pack("<II", 4, 0)), "power of two"),
    "five dimensions": (header(1, 0, declared("t", [1] * 5, 0, 0)), "dimensions"),
    "an empty tensor": (header(1, 0, declared("t", [0, 4], 0, 0)), "empty shape"),
    "an endless tensor": (header(1, 0, declared("t", [2**40, 2**40], 0, 0)), "truncated: tensor t needs bytes"),
    "a far offset": (header(1, 0, declared("t", [4], 0, 2**63)), "truncated"),
    "a crooked offset": (header(1, 0, declared("t", [4], 0, 4)) + bytes(64), "unaligned"),
    "half a block": (header(1, 0, declared("t", [33], 8, 0)) + bytes(99), "rows of 33"),
    "a kind not read": (header(1, 0, declared("t", [256], 17, 0)) + bytes(999), "IQ2_XS is not supported.*Q4_K"),
    "a kind unheard of": (header(1, 0, declared("t", [256], 99, 0)) + bytes(999), "number 99"),
    "a tensor twice": (header(2, 0, 2 * declared("t", [4], 0, 0)) + bytes(99), "twice"),
    "shared bytes": (header(2, 0, declared("t", [16], 0, 0) + declared("u", [16], 0, 32)) + bytes(200), "same bytes"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said(case: str, tmp_path: Path) -> None:
    content, said = BAD[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(Fault, match=said) as caught:
        GGUFFile.open(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="cannot be read"):
        GGUFFile.open(tmp_path / "absent.gguf")


@real
def test_smollm2_is_whole_and_its_q_and_k_are_in_halves() -> None:
    checkpoint = open_checkpoint(SMOLLM2)
    assert checkpoint.parameters == 134_515_008 and checkpoint.kinds == {"Q4_1": 210, "F32": 61, "Q8_0": 1}
    assert checkpoint.name == "smollm2-135m-instruct" and checkpoint.spec.tied and checkpoint.format == "gguf"
    state = dict(checkpoint.state(torch.float32))
    assert sum(t.numel() for t in state.values()) == checkpoint.parameters
    reader = {t.name: t for t in gguf.GGUFReader(str(SMOLLM2)).tensors}
    for ours, theirs, heads in (("attention.query", "attn_q", 9), ("key_value.key", "attn_k", 3)):
        stored = reader[f"blk.7.{theirs}.weight"]
        plain = oracle(stored.data, stored.tensor_type)
        # What convert_hf_to_gguf.py does to Q and K, done again to ours, gives the file.
        permuted = state[f"layers.7.{ours}.weight"].reshape(heads, 2, 32, 576).transpose(1, 2).reshape(plain.shape)
        assert np.array_equal(permuted.numpy(), plain)
    value = reader["blk.7.attn_v.weight"]
    assert np.array_equal(state["layers.7.key_value.value.weight"].numpy(), oracle(value.data, value.tensor_type))
