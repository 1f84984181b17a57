"""A family's names lead back: what we write of a checkpoint that we read is what transformers had written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf
from families import pair
from safetensors.torch import load_file
from test_families_fields import MODELS
from test_families_gpt import FALCON, FALCONS

from openbook.lm.weights.config import FAMILIES
from openbook.lm.weights.names import write

WRITTEN = {name: (kind, make(**sizes)) for name, (kind, make, sizes) in MODELS.items()} | {
    f"Falcon {name}": (hf.FalconForCausalLM, hf.FalconConfig(**FALCON | changes))
    for name, (changes, _, _) in FALCONS.items()
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_read_is_written_as_it_was(name: str, tmp_path: Path) -> None:
    kind, config = WRITTEN[name]
    _, checkpoint = pair(kind, config, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    ours = dict(write(checkpoint.spec, FAMILIES[kind.__name__].names, checkpoint.state()))
    assert ours.keys() == stored.keys()
    assert all(torch.equal(ours[key], tensor) for key, tensor in stored.items())
