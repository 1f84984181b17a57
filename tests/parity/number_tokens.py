"""A tokenizer that spells numbers, for models that are tested with random weights."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer as Pieces
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing


def with_tokenizer(folder: Path, count: int, begin: int | None = 2, end: int = 3) -> Path:
    """A tokenizer of `count` numbers beside a model: `w5` is token 5; `begin` and `end` are put around a text."""
    pieces = Pieces(WordLevel({f"w{i}": i for i in range(count)}, unk_token="w4"))  # noqa: S106
    pieces.pre_tokenizer = WhitespaceSplit()
    around = "$A" if begin is None else f"w{begin} $A"
    pieces.post_processor = TemplateProcessing(
        single=f"{around} w{end}", special_tokens=[(f"w{i}", i) for i in (begin, end) if i is not None]
    )
    definition = json.loads(pieces.to_str())
    vocabulary = definition["model"]["vocab"]
    definition["model"] = {
        "type": "WordPiece",
        "vocab": vocabulary,
        "unk_token": "w4",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    return folder
