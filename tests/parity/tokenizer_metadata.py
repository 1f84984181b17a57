"""Metadata of GGUF for small tokenizers made here, so that tests need no download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

CORPUS = ["the cat sat on the mat 123 times", "don't stop; 中文 and naïve café", "x = y ** 2  # hi\n\n\tpass"] * 20
CONTROLS = ["<|bos|>", "<|eot_id|>"]


def byte_level_metadata(pre: str) -> dict[str, Any]:
    """GGUF metadata of a small byte-level vocabulary whose last tokens are control, in which `whole` words exist."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(backend.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    merges = [" ".join(pair) for pair in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, *CONTROLS, "<think>"],
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3, 3, 4],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": len(tokens),
        "tokenizer.ggml.eos_token_id": len(tokens) + 1,
    }


def sentencepiece_metadata() -> dict[str, Any]:
    """GGUF metadata of a small SentencePiece BPE: pieces with falling scores, bytes, three special tokens."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=150, show_progress=False))
    model = json.loads(backend.to_str())["model"]
    merged = ["".join(pair) for pair in model["merges"]]
    letters = sorted(token for token in model["vocab"] if len(token) == 1)
    special, bytes_ = ["<unk>", "<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*special, *bytes_, *merged, *letters]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(merged))] + [-1e9] * len(letters)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def gemma_metadata() -> dict[str, Any]:
    metadata = sentencepiece_metadata()
    runs = [" " * n for n in range(2, 9)] + ["\n" * n for n in range(1, 4)] + ["<b>", "</s>"]
    size = len(metadata["tokenizer.ggml.tokens"])
    metadata["tokenizer.ggml.tokens"][2] = "<eos>"
    metadata["tokenizer.ggml.tokens"] += [*runs, "<start_of_turn>", "<end_of_turn>"]
    metadata["tokenizer.ggml.token_type"] += [4] * len(runs) + [3, 3]
    metadata["tokenizer.ggml.scores"] += [-1000.0] * (len(runs) + 2)
    assert len(metadata["tokenizer.ggml.tokens"]) == size + 14
    return {**metadata, "tokenizer.ggml.add_space_prefix": False, "general.architecture": "gemma3"}


def write_metadata(metadata: dict[str, Any], path: Path) -> Path:
    import gguf

    writer = gguf.GGUFWriter(str(path), metadata["general.architecture"])
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif key != "general.architecture":
            add = writer.add_bool if isinstance(value, bool) else writer.add_uint32
            (writer.add_string if isinstance(value, str) else add)(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def phi3_metadata() -> dict[str, Any]:
    metadata = sentencepiece_metadata()
    metadata["tokenizer.ggml.tokens"] += ["<|user|>", "<|end|>"]
    metadata["tokenizer.ggml.token_type"] += [3, 4]
    metadata["tokenizer.ggml.scores"] += [0.0, 0.0]
    return metadata
