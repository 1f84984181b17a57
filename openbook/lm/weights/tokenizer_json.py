"""The definition of a tokenizer in the form of `tokenizer.json`: checking it, building it, hiding control tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from openbook.errors import Fault
from openbook.lm.weights.charsmap import check_charsmaps

OTHERS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json", "merges.txt")
MAX_ID = 1 << 24  # the library makes room for every id below the highest


def build(definition: Mapping[str, Any], where: str) -> Any:
    """The `tokenizers.Tokenizer` of a definition, without truncation and padding."""
    from tokenizers import Tokenizer as Backend

    try:
        backend = Backend.from_str(json.dumps(definition, ensure_ascii=False))
    # The library raises bare Exception for every fault of a definition.
    except Exception as error:
        raise Fault(
            f"{where} is not a tokenizer that the tokenizers library builds: {' '.join(str(error).split())}"
        ) from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def ids_of(model: Mapping[str, Any]) -> dict[str, int]:
    """The id of each spelling of a checked `model`; of two ids with one spelling, the first."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return dict(vocabulary)
    ids: dict[str, int] = {}
    for index, (piece, _) in enumerate(vocabulary):
        ids.setdefault(piece, index)
    return ids


def without_control(definition: Mapping[str, Any], control: frozenset[int]) -> dict[str, Any]:
    """The definition in which no text can become a token of `control`; all other ids stay as they are."""
    added, model = definition["added_tokens"], definition["model"]
    kept = [token for token in added if token["id"] not in control]
    if model.get("type") == "Unigram":
        # What no piece spells becomes the unknown token by its id, so that its own spelling can go too.
        hidden_ids = control | {model.get("unk_id")}
        pieces = [
            [_unspelled(i), score] if i in hidden_ids else [piece, score]
            for i, (piece, score) in enumerate(model["vocab"])
        ]
        return {**definition, "added_tokens": kept, "model": {**model, "vocab": pieces}}
    unknown = model.get("unk_token")  # what no token spells becomes the unknown token: that is not a control token
    vocabulary: dict[str, int] = dict(model["vocab"])
    # Ids of added tokens are given by the vocabulary, so all of them stand in it, the control tokens unspellable.
    vocabulary.update({token["content"]: token["id"] for token in added})
    spelled = {token for token, index in vocabulary.items() if index in control}
    hidden = spelled - {unknown}
    renamed = {_unspelled(i) if token in hidden else token: i for token, i in vocabulary.items()}
    changed = {**model, "vocab": renamed}
    if model.get("merges"):
        changed["merges"] = _merges_without(spelled, model["merges"])
    return {**definition, "added_tokens": kept, "model": changed}


def _unspelled(index: int) -> str:
    """What no text becomes: no cut leaves a space inside bytes or a word, and SentencePiece turns spaces into ▁."""
    return f" control {index}"


def _merges_without(spelled: set[str], merges: list[Any]) -> list[Any]:
    """The merges that neither take nor make one of these tokens; in one loop, as there are 10⁵ of them."""
    kept = []
    for merge in merges:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        if not (left in spelled or right in spelled or left + right in spelled):
            kept.append(merge)
    return kept


def checked(definition: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The definition, once it has the parts that are read here in the form they are read in."""
    model = definition.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise Fault(f"{where}: only tokenizers with a vocabulary of pieces (BPE, WordPiece, Unigram) are read")
    vocabulary, kind = model["vocab"], model.get("type", "BPE")
    if kind not in ("BPE", "WordPiece", "Unigram"):
        raise Fault(f"{where}: tokenizer model {kind!r} is not supported; BPE, WordPiece and Unigram are")
    added = definition.get("added_tokens") or []
    fits = {
        "vocab": _is_vocabulary(vocabulary, kind),
        "merges": _are_merges(model.get("merges") or []),
        "unk_token": _is_unknown(model.get("unk_token"), vocabulary),
        "unk_id": _is_unknown_id(model.get("unk_id"), vocabulary),
        "added_tokens": _listed(added, _is_added),
        "decoder": all(isinstance(step, dict) and isinstance(step.get("type"), str) for step in decoders(definition)),
        "normalizer": isinstance(definition.get("normalizer") or {}, dict),
    }
    for part, good in fits.items():
        if not good:
            raise Fault(f"{where}: its {part} is not as a tokenizer.json has it")
    check_charsmaps(definition.get("normalizer"), where)
    return {**definition, "added_tokens": [{"special": False, **token} for token in added if token["content"]]}


def _is_vocabulary(vocabulary: Any, kind: str) -> bool:
    """An id for each piece, or for a unigram model a list of pieces and their scores."""
    if kind == "Unigram":
        return _listed(vocabulary, _is_scored)
    if not isinstance(vocabulary, dict):
        return False
    ids = vocabulary.values()
    # By type first, all at once: a vocabulary has 10⁵ of them.
    return not ids or (set(map(type, ids)) == {int} and min(ids) >= 0 and max(ids) < MAX_ID)


def _is_scored(entry: Any) -> bool:
    pair = isinstance(entry, list) and len(entry) == 2
    return pair and isinstance(entry[0], str) and isinstance(entry[1], int | float)


def decoders(definition: Mapping[str, Any]) -> list[Any]:
    """The steps of the decoder, one or a sequence; none where there is no decoder."""
    decoder = definition.get("decoder")
    steps = decoder.get("decoders") if isinstance(decoder, dict) and decoder.get("type") == "Sequence" else None
    return steps if isinstance(steps, list) else [] if decoder is None else [decoder]


def _listed(values: object, good: Callable[[Any], bool]) -> bool:
    return isinstance(values, list) and all(map(good, values))


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_ID


def _is_unknown(token: Any, vocabulary: Any) -> bool:
    return token is None or (isinstance(token, str) and token in vocabulary)


def _is_unknown_id(index: Any, vocabulary: Any) -> bool:
    return index is None or (_is_id(index) and index < len(vocabulary))


def _are_merges(merges: Any) -> bool:
    """Strings of two pieces with a space between, or lists of two strings."""
    if not isinstance(merges, list):
        return False
    if set(map(type, merges)) <= {str}:
        return all(merge.count(" ") == 1 for merge in merges)
    return all(merge.count(" ") == 1 if isinstance(merge, str) else _are_pieces(merge) for merge in merges)


def _are_pieces(merge: Any) -> bool:
    return isinstance(merge, list) and len(merge) == 2 and all(isinstance(piece, str) for piece in merge)


def _is_added(token: Any) -> bool:
    return isinstance(token, dict) and _is_id(token.get("id")) and isinstance(token.get("content"), str)


def content_of(token: Any) -> str | None:
    """A token in tokenizer_config.json is a string or an object with `content`."""
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else None


def tokenizer_file(folder: Path) -> Path:
    """The folder's tokenizer.json. A `Fault` says how to make one of what stands there instead."""
    file = folder / "tokenizer.json"
    if not file.exists():
        others = [name for name in OTHERS if (folder / name).is_file()]
        if others:
            raise Fault(
                f"{folder} has no tokenizer.json, and {', '.join(others)} is not read; make one with transformers: "
                f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
            )
        raise Fault(f"{file} is missing; put the model's own tokenizer.json there")
    return file


def template_of(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The chat template: a file of its own, or a field of the config (a list of named ones has a `default`)."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise Fault(f"{file} is not readable text: {error}") from error
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable Latin-1 stands for itself, the others are moved to U+0100 and up."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in set(printable)]
    return {**{chr(b): b for b in printable}, **{chr(256 + i): b for i, b in enumerate(moved)}}


BYTE_OF = _byte_alphabet()
