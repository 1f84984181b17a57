"""How byte-level tokenizers cut text before they merge: the values of `tokenizer.ggml.pre`.

A name is a function to the steps of the cut, registered by decorator. One that is not registered is refused, because
the wrong cut gives tokens that look right and are not. The names are those of llama.cpp (src/llama-vocab.cpp), the
steps those of the models' own tokenizer.json, which llama.cpp approximates in places (Falcon's digits, NFC).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openbook.errors import Fault

Step = dict[str, Any]

BYTE_LEVEL: Step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2: Step = {**BYTE_LEVEL, "use_regex": True}

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = QWEN2.replace(r"]?\p{L}+", r"]?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = _CASED.replace("%", "") + r"|\p{N}" + _REST
GPT4O = _CASED.replace("%", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?") + r"|\p{N}{1,3}" + _REST


@dataclass(frozen=True)
class Cut:
    """How text is prepared for byte-level merges: normaliser, pre-tokeniser steps, whole words before merges;
    whether BOS and EOS are put around a text where the file does not say."""

    steps: list[Step]
    normalizer: Step | None = None
    ignore_merges: bool = False
    bos: bool = False
    eos: bool = False


CUTS: dict[str, Callable[[], Cut]] = {}

# The cut of architectures that have but one, for files made before `tokenizer.ggml.pre` was.
OF_ARCHITECTURE = {
    "gpt2": "gpt-2", "falcon": "falcon", "olmoe": "olmo", "qwen2": "qwen2", "qwen3": "qwen2", "qwen3moe": "qwen2",
}  # fmt: skip


def pretokenizer(*names: str) -> Callable[[Callable[[], Cut]], Callable[[], Cut]]:
    """Register the decorated function for these values of `tokenizer.ggml.pre`."""

    def register(cut: Callable[[], Cut]) -> Callable[[], Cut]:
        CUTS.update(dict.fromkeys(names, cut))
        return cut

    return register


def cut_of(name: object, architecture: object, where: str) -> Cut:
    """The cut of this name; a `Fault` says which names there are. No name, or `default`, is the architecture's own."""
    if name in (None, "", "default"):
        own = OF_ARCHITECTURE.get(str(architecture))
        if own is None:
            raise Fault(
                f"{where}: tokenizer.ggml.pre is {name!r}, which does not say how text is cut before it is merged; "
                f"take a file converted by a newer llama.cpp"
            )
        name = own
    if not isinstance(name, str) or name not in CUTS:
        raise Fault(f"{where}: tokenizer.ggml.pre {name!r} is not supported; {', '.join(sorted(CUTS))} are")
    return CUTS[name]()


@pretokenizer("gpt-2", "gpt2", "phi-2")
def _gpt2() -> Cut:
    return Cut([GPT2])


@pretokenizer("roberta-bpe")
def _roberta() -> Cut:
    return Cut([GPT2], bos=True, eos=True)


@pretokenizer("olmo")
def _olmo() -> Cut:
    # The tokenizer of GPT-NeoX.
    return Cut([GPT2], normalizer={"type": "NFC"})


@pretokenizer("smollm", "starcoder", "refact", "codeshell")
def _single_digits() -> Cut:
    # Each digit is a piece of its own *before* GPT-2's cut, so " 1" is a space and a digit, never one piece.
    return Cut([{"type": "Digits", "individual_digits": True}, GPT2])


@pretokenizer("falcon")
def _falcon() -> Cut:
    # Digits are parted after bytes became characters, some of which are digits (²): as in the model's own file.
    steps = [{"type": "Punctuation", "behavior": "Contiguous"}, GPT2, {"type": "Digits", "individual_digits": False}]
    return Cut([*steps, _split("[0-9][0-9][0-9]")])


@pretokenizer("llama-bpe", "llama3", "llama-v3", "falcon3")
def _llama3() -> Cut:
    return Cut([_split(LLAMA3), BYTE_LEVEL], ignore_merges=True, bos=True)


@pretokenizer("dbrx", "smaug-bpe")
def _dbrx() -> Cut:
    # cl100k, which Phi-4 has too.
    return Cut([_split(LLAMA3), BYTE_LEVEL])


@pretokenizer("tekken")
def _tekken() -> Cut:
    return Cut([_split(TEKKEN), BYTE_LEVEL], ignore_merges=True, bos=True)


@pretokenizer("gpt-4o", "llama4")
def _gpt4o() -> Cut:
    return Cut([_split(GPT4O), BYTE_LEVEL])


@pretokenizer("qwen2", "deepseek-r1-qwen")
def _qwen2() -> Cut:
    return Cut([_split(QWEN2), BYTE_LEVEL], normalizer={"type": "NFC"})


@pretokenizer("qwen35")
def _qwen35() -> Cut:
    return Cut([_split(QWEN35), BYTE_LEVEL], normalizer={"type": "NFC"})


def _split(regex: str) -> Step:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
