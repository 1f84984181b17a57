"""From the tokenizer metadata of a GGUF file to a definition in the form of `tokenizer.json`.

GGUF holds a vocabulary, merges or scores, and the *name* of how text is cut before merging (`tokenizer.ggml.pre`).
A name is a function to the cutting steps, registered by decorator; one that is not registered is refused, because
the wrong cut gives tokens that look right and are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from openbook.errors import Fault

Step = dict[str, Any]

MAX_PIECE = 4096  # characters; every split of a piece is looked at, which takes their square

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type
BYTE_LEVEL: Step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True)
class Cut:
    """How text is prepared for byte-level merges: normaliser, pre-tokeniser steps, whole words before merges."""

    steps: list[Step]
    normalizer: Step | None = None
    ignore_merges: bool = False
    bos: bool = field(default=False)  # whether a BOS is added when the file does not say


CUTS: dict[str, Callable[[], Cut]] = {}


def pretokenizer(*names: str) -> Callable[[Callable[[], Cut]], Callable[[], Cut]]:
    """Register the decorated function for these values of `tokenizer.ggml.pre`."""

    def register(cut: Callable[[], Cut]) -> Callable[[], Cut]:
        CUTS.update(dict.fromkeys(names, cut))
        return cut

    return register


@pretokenizer("gpt-2", "default", "gpt2")
def _gpt2() -> Cut:
    return Cut([{**BYTE_LEVEL, "use_regex": True}])


@pretokenizer("smollm", "starcoder", "refact", "codeshell")
def _single_digits() -> Cut:
    # Each digit is a piece of its own *before* GPT-2's cut, so " 1" is a space and a digit, never one piece.
    return Cut([{"type": "Digits", "individual_digits": True}, {**BYTE_LEVEL, "use_regex": True}])


@pretokenizer("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "falcon3")
def _llama3() -> Cut:
    return Cut([_split(LLAMA3), BYTE_LEVEL], ignore_merges=True, bos=True)


@pretokenizer("qwen2", "deepseek-r1-qwen")
def _qwen2() -> Cut:
    return Cut([_split(QWEN2), BYTE_LEVEL], normalizer={"type": "NFC"})


def _split(regex: str) -> Step:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def definition(metadata: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The `tokenizer.json` that the metadata describe. Raises `Fault` naming a kind or key that is not supported."""
    tokens = _strings(metadata, "tokenizer.ggml.tokens", where)
    kinds = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise Fault(f"{where}: tokenizer.ggml.token_type must hold one number for each of {len(tokens)} tokens")
    model = metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        built, bos = _byte_level(metadata, tokens, where)
    elif model == "llama":
        built, bos = _sentencepiece(metadata, tokens, kinds, where), True
    else:
        raise Fault(f"{where}: tokenizer.ggml.model {model!r} is not supported; gpt2 and llama are")
    built["version"] = "1.0"
    built["added_tokens"] = [
        _added(index, token, special=kind == CONTROL)
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (CONTROL, USER) and token
    ]
    built["post_processor"] = _wrapping(metadata, tokens, bos)
    return built


def _strings(metadata: Mapping[str, Any], key: str, where: str) -> list[str]:
    values = metadata.get(key)
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise Fault(f"{where}: {key} is missing or not a list of strings; the file has no tokenizer")
    return values


def _added(index: int, content: str, special: bool) -> Step:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": content, "special": special, **flags}


def _vocabulary(tokens: list[str]) -> dict[str, int]:
    # Of two tokens with one spelling the first is the one that text can become.
    vocabulary: dict[str, int] = {}
    for index, token in enumerate(tokens):
        vocabulary.setdefault(token, index)
    return vocabulary


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], where: str) -> tuple[dict[str, Any], bool]:
    name = metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(name, str) or name not in CUTS:
        raise Fault(f"{where}: tokenizer.ggml.pre {name!r} is not supported; {', '.join(sorted(CUTS))} are")
    cut = CUTS[name]()
    vocabulary = _vocabulary(tokens)
    merges = [merge.split(" ") for merge in _strings(metadata, "tokenizer.ggml.merges", where)]
    for pair in merges:
        if len(pair) != 2 or not {pair[0], pair[1], "".join(pair)} <= vocabulary.keys():
            raise Fault(f"{where}: the merge {' '.join(pair)!r} is not of two tokens of the vocabulary")
    return {
        "normalizer": cut.normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cut.steps},
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges, "ignore_merges": cut.ignore_merges},
    }, cut.bos


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], kinds: list[int], where: str) -> dict[str, Any]:
    """SentencePiece BPE: spaces are ▁, unknown characters fall back to bytes, merges come from the scores."""
    scores = metadata.get("tokenizer.ggml.scores")
    numbers = isinstance(scores, list) and all(isinstance(score, int | float) for score in scores)
    if not isinstance(scores, list) or not numbers or len(scores) != len(tokens):
        raise Fault(f"{where}: tokenizer.ggml.scores must hold one number for each of {len(tokens)} tokens")
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    known = isinstance(unknown, int) and 0 <= unknown < len(tokens)
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps = [{"type": "Prepend", "prepend": "▁"}, replace] if prefix else [replace]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {
            "type": "BPE",
            "vocab": _vocabulary(tokens),
            "merges": merges_of(tokens, scores, kinds),
            "unk_token": tokens[unknown] if known else None,
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


def merges_of(tokens: list[str], scores: list[float], kinds: list[int]) -> list[list[str]]:
    """The merges that SentencePiece's scores imply: every split of a piece into two pieces, best score first.

    Splits of one piece share its score; they are ordered by where their halves stand in the vocabulary. Raises `Fault`
    for a piece that is too long.
    """
    pieces = {
        token: (index, score)
        for index, (token, score, kind) in enumerate(zip(tokens, scores, kinds, strict=True))
        if kind in (NORMAL, USER, UNUSED)
    }
    if longest := max((len(piece) for piece in pieces if len(piece) > MAX_PIECE), default=0):
        raise Fault(f"a token of the vocabulary has {longest} characters; at most {MAX_PIECE} are read")
    ranked = [
        (-score, pieces[piece[:cut]][0], pieces[piece[cut:]][0], piece[:cut], piece[cut:])
        for piece, (_, score) in pieces.items()
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    return [[left, right] for *_, left, right in sorted(ranked)]


def _wrapping(metadata: Mapping[str, Any], tokens: list[str], bos: bool) -> Step | None:
    """The post-processor that puts BOS before and EOS after a text, where the file says that the model wants them."""
    ends = []
    for name, default in (("bos", bos), ("eos", False)):
        index = metadata.get(f"tokenizer.ggml.{name}_token_id")
        wanted = metadata.get(f"tokenizer.ggml.add_{name}_token", default)
        fits = isinstance(index, int) and 0 <= index < len(tokens)
        ends.append((index, tokens[index]) if wanted and fits and isinstance(index, int) else None)
    before, after = ends
    special = {token: {"id": token, "ids": [index], "tokens": [token]} for index, token in filter(None, ends)}

    def around(*bodies: tuple[str, int]) -> list[Step]:
        steps: list[Step] = []
        for body, segment in bodies:
            steps += [{"SpecialToken": {"id": before[1], "type_id": segment}}] if before else []
            steps += [{"Sequence": {"id": body, "type_id": segment}}]
            steps += [{"SpecialToken": {"id": after[1], "type_id": segment}}] if after else []
        return steps

    if not special:
        return None
    pair = around(("A", 0), ("B", 1))
    return {"type": "TemplateProcessing", "single": around(("A", 0)), "pair": pair, "special_tokens": special}
