"""The models of the catalogue, when they are here: names, sizes, memory, time and keys of caches."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest
import torch

from openbook.lm.weights.checkpoint import Checkpoint, open_checkpoint
from openbook.lm.weights.names import parameters
from openbook.lm.weights.pull import find, installed

HERE = {model.name for model in installed()}


def opened(name: str) -> Checkpoint:
    model = find(name)
    if model is None or name not in HERE:
        pytest.skip(f"needs: openbook models pull {name}{' --accept-terms' if model and model.terms else ''}")
    return open_checkpoint(model.path)


@pytest.mark.parametrize(
    ("name", "full_name", "size"),
    [
        ("smollm2", "smollm2-135m-instruct", 134_515_008),
        ("minilm", "all-minilm-l6-v2", 22_565_376),
        ("gemma3", "gemma-3-270m", 268_098_176),
    ],
)
def test_a_pulled_model_is_whole(name: str, full_name: str, size: int) -> None:
    checkpoint = opened(name)
    assert checkpoint.name == full_name and checkpoint.parameters == size
    shapes = {ours: tuple(tensor.shape) for ours, tensor in checkpoint.state(torch.bfloat16)}
    assert shapes == parameters(checkpoint.spec) and list(shapes) == list(parameters(checkpoint.spec))
    assert checkpoint.fingerprint == open_checkpoint(checkpoint.path).fingerprint and len(checkpoint.fingerprint) == 64


def test_loading_needs_little_more_memory_than_one_tensor() -> None:
    checkpoint = opened("smollm2")
    for _ in checkpoint.state(torch.bfloat16):
        break
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    largest = 0
    for _, tensor in checkpoint.state(torch.bfloat16):
        largest = max(largest, tensor.numel() * tensor.element_size())
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < checkpoint.bytes + 2 * largest  # the mapped file counts as resident once it is read


def test_loading_is_fast() -> None:
    checkpoint = opened("smollm2")
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in checkpoint.state(torch.bfloat16):
            pass
        times.append(time.perf_counter() - start)
    assert min(times) < 5.0  # about 0.5 s on two quiet cores; docs/models.md has the measurement


def test_one_changed_byte_of_the_header_or_the_sampled_data_changes_the_fingerprint(tmp_path: Path) -> None:
    checkpoint = opened("smollm2")
    copy = tmp_path / "m.gguf"
    content = bytearray(checkpoint.path.read_bytes())
    prints = set()
    for place in (None, 500, len(content) - 1):
        changed = bytearray(content)
        if place is not None:
            changed[place] ^= 1
        copy.write_bytes(changed)
        digest = Checkpoint(copy, "m", "gguf", checkpoint.spec, checkpoint.source, {}).fingerprint
        prints.add(digest)
    assert len(prints) == 3 and checkpoint.fingerprint in prints
