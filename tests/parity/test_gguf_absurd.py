"""Every key of every architecture's metadata set to absurd values: a spec that can be, or a `Fault` of one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf_writer import write_gguf
from test_gguf_families import MODELS, causal

from openbook.errors import Fault
from openbook.lm.spec import ModelSpec
from openbook.lm.weights.gguf import GGUFFile
from openbook.lm.weights.gguf_spec import spec_from_gguf
from openbook.lm.weights.parameters import parameters

ABSURD: list[Any] = [
    True, False, 0, 1, 3, -1, 2**32 - 1, 2**64 - 1, 1.5, 0.0, -1.0, 1e38, float("nan"), float("inf"), "", "x",
    [], [0], [1.0, 2.0], ["x"],
]  # fmt: skip
FURTHER = (
    "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.dimension_count",
    "attention.key_length", "attention.sliding_window", "expert_count", "unheard_of",
)  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_any_absurd_key(case: str, tmp_path: Path) -> None:
    architecture, config = MODELS[case]
    file = GGUFFile.open(write_gguf(causal(config()), architecture, tmp_path / "m.gguf"))
    assert sane(spec_from_gguf(file.metadata, file.tensors, file.tensor))
    keys = {*file.metadata, "general.architecture", *(f"{architecture}.{key}" for key in FURTHER)}
    for key in sorted(keys):
        for value in ABSURD:
            try:
                assert sane(spec_from_gguf({**file.metadata, key: value}, file.tensors, file.tensor)), (key, value)
            except Fault as fault:
                assert "\n" not in str(fault) and len(str(fault)) < 2000


def sane(spec: Any) -> bool:
    """Whether the sizes of a spec are whole numbers of 1 or more."""
    shapes = parameters(spec).values()
    sizes = all(type(size) is int and size >= 1 for shape in shapes for size in shape)
    return isinstance(spec, ModelSpec) and len(spec.layers) <= 4096 and sizes
