"""From the tokenizer metadata of a GGUF file to a definition in the form of `tokenizer.json`.

GGUF holds a vocabulary and either merges or scores, and names what they are for (`tokenizer.ggml.model`): `gpt2` is
byte-level BPE (cut as in `tokenizer_cuts`), `llama` SentencePiece BPE, `bert` WordPiece, `t5` a unigram model. A name
is a function under `@kind`; one that is not registered is refused. Facts: llama.cpp, src/llama-vocab.cpp.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from openbook.errors import Fault
from openbook.lm.weights.charsmap import check_charsmap
from openbook.lm.weights.tokenizer_cuts import BYTE_LEVEL, Step, cut_of

MAX_PIECE = 4096  # characters; every split of a piece is looked at, which takes their square

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type
SPACE = "▁"

# What marks turns in the prompts of models: control, also where a file calls it an ordinary token.
MARK = re.compile(r"<\|[^|<>\s]+\|>|<｜[^｜<>\s]+｜>|<(start|end)_of_turn>|\[/?INST\]")


@dataclass(frozen=True)
class Vocabulary:
    """What a file says of its tokens: spellings and kinds by id, and all its metadata; `where` names the file."""

    tokens: list[str]
    kinds: list[int]
    metadata: Mapping[str, Any]
    where: str

    def get(self, key: str, default: Any = None) -> Any:
        """`tokenizer.ggml.{key}`."""
        return self.metadata.get(f"tokenizer.ggml.{key}", default)

    def id_of(self, *names: str) -> int | None:
        """The first of these `{name}_token_id` that is an id."""
        ids = [self.get(f"{name}_token_id") for name in names]
        return next((i for i in ids if isinstance(i, int) and 0 <= i < len(self.tokens)), None)

    def scores(self) -> list[float]:
        """A number for each token."""
        scores = self.get("scores")
        numbers = isinstance(scores, list) and all(isinstance(score, int | float) for score in scores)
        if not isinstance(scores, list) or not numbers or len(scores) != len(self.tokens):
            raise Fault(
                f"{self.where}: tokenizer.ggml.scores must hold one number for each of {len(self.tokens)} tokens"
            )
        return scores


@dataclass(frozen=True)
class Built:
    """The parts of a definition, and which ids are put before and after a text; `tokens` where they are respelled."""

    parts: dict[str, Any]
    before: int | None
    after: int | None
    tokens: list[str] | None = None
    again: bool = True  # whether the second text of a pair has `before` too


KINDS: dict[str, Callable[[Vocabulary], Built]] = {}


def kind(name: str) -> Callable[[Callable[[Vocabulary], Built]], Callable[[Vocabulary], Built]]:
    """Register the decorated function for this value of `tokenizer.ggml.model`."""

    def register(build: Callable[[Vocabulary], Built]) -> Callable[[Vocabulary], Built]:
        KINDS[name] = build
        return build

    return register


def definition(metadata: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The `tokenizer.json` that the metadata describe. Raises `Fault` naming a kind or key that is not supported."""
    vocabulary = _read(metadata, where)
    model = metadata.get("tokenizer.ggml.model")
    if not isinstance(model, str) or model not in KINDS:
        raise Fault(f"{where}: tokenizer.ggml.model {model!r} is not supported; {', '.join(KINDS)} are")
    built = KINDS[model](vocabulary)
    tokens = built.tokens or vocabulary.tokens
    added = [
        _added(index, token, vocabulary, built.parts)
        for index, (token, kind) in enumerate(zip(tokens, vocabulary.kinds, strict=True))
        if kind in (CONTROL, USER) and token
    ]
    return {"version": "1.0", "added_tokens": added, **built.parts, "post_processor": _wrapping(built, tokens)}


def _read(metadata: Mapping[str, Any], where: str) -> Vocabulary:
    tokens = _strings(metadata, "tokenizer.ggml.tokens", where)
    kinds = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise Fault(f"{where}: tokenizer.ggml.token_type must hold one number for each of {len(tokens)} tokens")
    marked = [
        CONTROL if kind in (NORMAL, USER) and token[:1] in "<[" and MARK.fullmatch(token) else kind
        for token, kind in zip(tokens, kinds, strict=True)
    ]
    return Vocabulary(tokens, marked, metadata, where)


def _strings(metadata: Mapping[str, Any], key: str, where: str) -> list[str]:
    values = metadata.get(key)
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise Fault(f"{where}: {key} is missing or not a list of strings; the file has no tokenizer")
    return values


def _added(index: int, content: str, vocabulary: Vocabulary, parts: dict[str, Any]) -> Step:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = vocabulary.kinds[index] == CONTROL
    # Runs of spaces are tokens of Gemma, and SentencePiece looks for them once spaces are ▁.
    flags["normalized"] = not special and not content.strip(" ") and parts["normalizer"] == _ESCAPED
    # Phi-3 was trained with the space after its marks swallowed; the file does not say so.
    phi3 = vocabulary.metadata.get("general.architecture") == "phi3" and vocabulary.get("model") == "llama"
    flags["rstrip"] = phi3 and special and content not in ("<s>", "<unk>", "<|endoftext|>")
    return {"id": index, "content": content, "special": special, **flags}


def _ids(tokens: list[str], kinds: list[int]) -> dict[str, int]:
    """The id of each spelling. Of two tokens with one, the added one is meant, else the first."""
    ids: dict[str, int] = {}
    for index, token in enumerate(tokens):
        ids.setdefault(token, index)
    added = [index for index, kind in enumerate(kinds) if kind in (CONTROL, USER)]
    return {**ids, **{tokens[index]: index for index in reversed(added)}}


@kind("gpt2")
def _byte_level(vocabulary: Vocabulary) -> Built:
    """BPE over bytes, each spelled as a printable character."""
    where = vocabulary.where
    cut = cut_of(vocabulary.get("pre"), vocabulary.metadata.get("general.architecture"), where)
    ids = _ids(vocabulary.tokens, vocabulary.kinds)
    merges = _strings(vocabulary.metadata, "tokenizer.ggml.merges", where)  # left as they are: there are 10⁵ of them
    for merge in merges:
        left, _, right = merge.partition(" ")
        if " " in right or left not in ids or right not in ids or left + right not in ids:
            raise Fault(f"{where}: the merge {merge!r} is not of two tokens of the vocabulary")
    parts = {
        "normalizer": cut.normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cut.steps},
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": ids, "merges": merges, "ignore_merges": cut.ignore_merges},
    }
    return Built(parts, _wanted(vocabulary, "bos", cut.bos), _wanted(vocabulary, "eos", cut.eos))


def _wanted(vocabulary: Vocabulary, name: str, default: bool) -> int | None:
    """The id of BOS or EOS where it is put around a text."""
    return vocabulary.id_of(name) if vocabulary.get(f"add_{name}_token", default) else None


_REPLACE: Step = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPEND: Step = {"type": "Prepend", "prepend": SPACE}
_ESCAPED: Step = {"type": "Sequence", "normalizers": [_REPLACE]}


def _spaced(prefix: bool) -> list[Step]:
    """The decoder's steps in which ▁ becomes a space, and the one put before the text goes."""
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]


@kind("llama")
def _sentencepiece(vocabulary: Vocabulary) -> Built:
    """SentencePiece BPE: spaces are ▁, unknown characters fall back to bytes, merges come from the scores."""
    tokens, unknown = vocabulary.tokens, vocabulary.get("unknown_token_id", 0)
    known = isinstance(unknown, int) and 0 <= unknown < len(tokens)
    prefix = bool(vocabulary.get("add_space_prefix", True))
    parts = {
        "normalizer": {"type": "Sequence", "normalizers": [_PREPEND, _REPLACE]} if prefix else _ESCAPED,
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": _spaced(prefix)},
        "model": {
            "type": "BPE",
            "vocab": _ids(tokens, vocabulary.kinds),
            "merges": merges_of(tokens, vocabulary.scores(), vocabulary.kinds),
            "unk_token": tokens[unknown] if known else None,
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }
    return Built(parts, _wanted(vocabulary, "bos", True), _wanted(vocabulary, "eos", False))


def merges_of(tokens: list[str], scores: list[float], kinds: list[int]) -> list[list[str]]:
    """The merges that SentencePiece's scores imply: every split of a piece into two pieces, best score first.

    Splits of one piece share its score; they are ordered by where their halves stand in the vocabulary. Raises `Fault`
    for a piece that is too long.
    """
    ids = {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (NORMAL, USER, UNUSED)
    }
    if longest := max((len(piece) for piece in ids if len(piece) > MAX_PIECE), default=0):
        raise Fault(f"a token of the vocabulary has {longest} characters; at most {MAX_PIECE} are read")
    merges: list[list[str]] = []
    # Half a million merges of Gemma: sorting the pieces, and only splits of one score among each other, is quickest.
    for _, best in groupby(sorted(ids.values(), key=lambda index: -scores[index]), key=scores.__getitem__):
        splits = [
            (ids[left], ids[right], left, right)
            for piece in map(tokens.__getitem__, best)
            for cut in range(1, len(piece))
            if (left := piece[:cut]) in ids and (right := piece[cut:]) in ids
        ]
        merges += [[left, right] for _, _, left, right in sorted(splits)]
    return merges


@kind("bert")
def _wordpiece(vocabulary: Vocabulary) -> Built:
    """WordPiece: the file marks beginnings of words with ▁, BERT marks what goes on within a word with ##."""
    where, kinds = vocabulary.where, vocabulary.kinds
    if not any(token.startswith(SPACE) for token in vocabulary.tokens):
        raise Fault(f"{where}: no token begins with {SPACE}, as words do in the GGUF of a BERT; convert it again")
    tokens = [_respelled(token, kind) for token, kind in zip(vocabulary.tokens, kinds, strict=True)]
    ids = _ids(tokens, kinds)
    unknown = vocabulary.id_of("unknown")
    unknown = ids.get("[UNK]") if unknown is None else unknown
    if unknown is None:
        raise Fault(f"{where}: the vocabulary has no token for unknown words; convert it again")
    # The file does not say whether capitals count: they do where a piece has one.
    cased = any(t != t.lower() and k == NORMAL and t[0] != "[" for t, k in zip(tokens, kinds, strict=True) if t)
    for name in ("[CLS]", "[SEP]", "[PAD]", "[MASK]"):
        if name in ids:
            kinds[ids[name]] = CONTROL
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
    parts = {
        "normalizer": {**normalizer, "strip_accents": None, "lowercase": not cased},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "vocab": ids,
            "unk_token": tokens[unknown],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
    }
    before, after = vocabulary.id_of("cls", "bos"), vocabulary.id_of("seperator", "eos")  # the key is spelled so
    before = ids.get("[CLS]") if before is None else before
    return Built(parts, before, ids.get("[SEP]") if after is None else after, tokens, again=False)


def _respelled(token: str, kind: int) -> str:
    if token.startswith(SPACE):
        return token.removeprefix(SPACE)
    whole = kind not in (NORMAL, USER) or (token.startswith("[") and token.endswith("]")) or not token
    return token if whole else f"##{token}"


@kind("t5")
def _unigram(vocabulary: Vocabulary) -> Built:
    """SentencePiece's unigram model: of all ways to cut the text, the one whose pieces' scores add up to most."""
    where = vocabulary.where
    unknown = vocabulary.get("unknown_token_id", 2)
    if not isinstance(unknown, int) or not 0 <= unknown < len(vocabulary.tokens):
        raise Fault(f"{where}: tokenizer.ggml.unknown_token_id is {unknown!r}, which is no token")
    steps: list[Step] = []
    charsmap = vocabulary.get("precompiled_charsmap")
    if charsmap:
        try:
            blob = bytes(byte & 255 for byte in charsmap)
        except TypeError as error:
            raise Fault(f"{where}: tokenizer.ggml.precompiled_charsmap is not a list of bytes") from error
        check_charsmap(blob, where)
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(blob).decode()})
    if vocabulary.get("remove_extra_whitespaces", True):
        steps.append({"type": "Replace", "pattern": {"Regex": "^ +| +$"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    prefix = bool(vocabulary.get("add_space_prefix", True))
    steps += [_PREPEND, _REPLACE] if prefix else [_REPLACE]
    pieces = [[token, score] for token, score in zip(vocabulary.tokens, vocabulary.scores(), strict=True)]
    parts = {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": _spaced(prefix)},
        "model": {"type": "Unigram", "unk_id": unknown, "vocab": pieces, "byte_fallback": BYTE in vocabulary.kinds},
    }
    return Built(parts, _wanted(vocabulary, "bos", False), _wanted(vocabulary, "eos", True))


def _wrapping(built: Built, tokens: list[str]) -> Step | None:
    """The post-processor that puts tokens before and after a text."""
    ids = [index for index in (built.before, built.after) if index is not None]
    if not ids:
        return None

    def mark(index: int | None, segment: int) -> list[Step]:
        return [] if index is None else [{"SpecialToken": {"id": tokens[index], "type_id": segment}}]

    def around(body: str, segment: int, before: int | None) -> list[Step]:
        text = {"Sequence": {"id": body, "type_id": segment}}
        return [*mark(before, segment), text, *mark(built.after, segment)]

    first, second = around("A", 0, built.before), around("B", 1, built.before if built.again else None)
    special = {tokens[index]: {"id": tokens[index], "ids": [index], "tokens": [tokens[index]]} for index in ids}
    return {"type": "TemplateProcessing", "single": first, "pair": first + second, "special_tokens": special}
