"""How the vectors of a text's tokens become one: what a checkpoint of a text encoder says of it.

sentence-transformers writes it into `1_Pooling/config.json`, llama.cpp into the key `pooling_type`; a checkpoint that
does not say is read by the mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.lm.weights.checkpoint import Checkpoint

Pooling = Literal["mean", "first"]
POOLING = Path("1_Pooling", "config.json")
LATER = "2_Dense"  # another layer on the pooled vector

_WORDS: dict[str, Pooling] = {"mean_tokens": "mean", "mean": "mean", "cls_token": "first", "cls": "first"}
_NUMBERS: dict[int, Pooling] = {0: "mean", 1: "mean", 2: "first"}  # 0: llama.cpp gives the tokens' own


def pooling_of(checkpoint: Checkpoint) -> Pooling:
    """The mean of all tokens, or the first token. A `Fault` names what is neither."""
    from openbook.lm.weights.gguf import GGUFFile

    if isinstance(checkpoint.source, GGUFFile):
        metadata = checkpoint.source.metadata
        number = metadata.get(f"{metadata.get('general.architecture')}.pooling_type", 1)
        if type(number) is not int or number not in _NUMBERS:
            raise Fault(f"{checkpoint.path}: pooling_type is {number!r}; 1 (mean) and 2 (first token) are read")
        return _NUMBERS[number]
    return _of_folder(checkpoint.path)


def _of_folder(folder: Path) -> Pooling:
    from openbook.lm.weights.safetensors import read_json

    if (folder / LATER).is_dir():
        raise Fault(f"{folder / LATER} is a further layer, which is not read; take an encoder without one")
    file = folder / POOLING
    if not file.is_file():
        return "mean"
    said = read_json(file)
    ways = [name.removeprefix("pooling_mode_") for name, on in said.items() if name.startswith("pooling_mode_") and on]
    ways += [str(said["pooling_mode"])] if said.get("pooling_mode") else []
    if len(ways) != 1 or ways[0] not in _WORDS:
        raise Fault(f"{file}: pools by {repr(ways)[:120]}; mean_tokens alone and cls_token alone are read")
    return _WORDS[ways[0]]
