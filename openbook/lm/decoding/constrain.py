"""Answers of a demanded form: a JSON schema or a regular expression says which tokens may come next (llguidance).

Each step gives a mask over the vocabulary. End tokens are allowed where the text satisfies the constraint, and only
there; where nothing else may follow, the text is complete. What is demanded may come from strangers: its size, and
the work it causes at each step, are bounded.

Shapes: V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from openbook.errors import Fault

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer
    from llguidance._lib import JsonCompileOptions

    from openbook.lm.tokenizer import Tokenizer

Kind = Literal["json_schema", "regex"]
LONGEST = 1 << 16
"""Characters of a schema or a regular expression that are taken."""
SEARCHED = 50
"""Parts of a bad schema that are tried to say which of them is bad."""
# One line, a space after comma and colon as JSON mostly has: free white space lets a small model write nothing else.
STYLE: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
    "coerce_one_of": False,
}


def limits() -> LLParserLimits:
    """What one grammar, and one step under it, may cost: well under a second, some ten megabytes."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=400_000,
        step_lexer_fuel=100_000,
        step_max_items=20_000,
        max_lexer_states=20_000,
        max_grammar_size=100_000,
        verbose_errors=False,
    )


@dataclass(frozen=True)
class Constraint:
    """What a whole answer must be: JSON of a schema (`text` is the schema), or what a regular expression matches.

    The syntax of expressions is Rust's without looking around, and a digit (`\\d`) is 0 to 9; the whole answer must
    match. Raises `Fault` for what is not a schema or an expression, and for keywords that are not understood: none is
    left out silently.
    """

    kind: Kind
    text: str

    def __post_init__(self) -> None:
        if not self.text:
            raise Fault(f"the {self.name} is empty")
        if len(self.text) > LONGEST:
            raise Fault(f"a {self.name} of {len(self.text)} characters is too long; at most {LONGEST}")
        if any("\ud800" <= character <= "\udfff" for character in self.text):
            raise Fault(f"the {self.name} is not text: it has halves of characters in it")
        if not (error := _wrong(self.grammar)):
            return
        if self.kind == "json_schema":
            raise Fault(f"the JSON schema cannot be used{_place(self._schema, error)}: {_reason(error)}")
        raise Fault(f"the regular expression {_short(self.text)!r} cannot be used: {_reason(error, self.text)}")

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return {"json_schema": "JSON schema", "regex": "regular expression"}[self.kind]

    @cached_property
    def _schema(self) -> dict[str, Any]:
        try:
            schema = json.loads(self.text)
        except RecursionError:
            raise Fault("the JSON schema is nested too deeply") from None
        except ValueError as error:
            raise Fault(f"the JSON schema is not JSON: {error}") from error
        if not isinstance(schema, dict):
            raise Fault(f'a JSON schema is an object, for example {{"type": "string"}}, not {_short(self.text)}')
        # A schema may not change how openbook writes.
        return {key: part for key, part in schema.items() if key != "x-guidance"}

    @cached_property
    def grammar(self) -> str:
        """The same in llguidance's own terms."""
        return _json_grammar(self._schema) if self.kind == "json_schema" else _regex_grammar(self.text)


class Unwritable(Fault):
    """A constraint under which nothing can be written, or no more."""


class Guides:
    """A tokenizer's vocabulary made ready for constraints, which takes seconds for the largest: make it once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.spells_bytes:
            raise Fault("this model's tokens do not spell bytes, so what it writes cannot be constrained")
        self.tokenizer = tokenizer
        self.vocabulary = tokenizer.vocabulary
        bytes_V = [tokenizer.token_bytes(index) for index in range(self.vocabulary)]
        # Where a text's first space is dropped, a first token stands for its bytes without it: ids of its own for that.
        self.first: dict[int, int] = {}
        self.barred: list[int] = []
        self._spellings = list(bytes_V)
        if tokenizer.strips_space:
            for index, spelling in enumerate(bytes_V):
                if spelling == b" ":
                    self.barred.append(index)
                elif spelling.startswith(b" "):
                    self.first[index] = len(self._spellings)
                    self._spellings.append(spelling[1:])
        # The library wants an end token; a model without one gets one that it cannot write.
        self._ends = sorted(tokenizer.eos_ids) or [len(self._spellings)]
        self._spellings += [b""] * (self._ends[-1] + 1 - len(self._spellings))

    def guide(self, constraint: Constraint) -> Guide:
        """A guide at the beginning of a text."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._vocabulary, constraint.grammar, log_level=0, limits=limits())
        return Guide(self, matcher)

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(_Vocabulary(self)), n_vocab=len(self._spellings), eos_token=self._ends)


class _Vocabulary:
    """What llguidance asks of a tokenizer. It writes what is forced in the tokens that `__call__` gives."""

    def __init__(self, guides: Guides) -> None:
        self._tokenizer = guides.tokenizer
        self.eos_token_id, self.bos_token_id = guides._ends[0], guides.tokenizer.bos_id
        self.tokens = guides._spellings
        self.special_token_ids = sorted(guides.tokenizer.control_ids | set(guides._ends))
        # From the last on, so that of two tokens with one spelling the first is meant.
        count = guides.vocabulary
        self._ids = {self.tokens[index]: index for index in reversed(range(count)) if self.tokens[index]}

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens that spell exactly this text, wherever it stands; the tokenizer's own where it has such."""
        wanted = text.encode() if isinstance(text, str) else text
        ids = self._tokenizer.encode(wanted.decode("utf-8", "replace"))
        first = self.tokens[ids[0]] if ids else b""
        if first.startswith(b" ") and not wanted.startswith(b" "):  # the space that SentencePiece puts before a text
            ids = ids[1:] if first == b" " else [self._ids.get(first[1:], ids[0]), *ids[1:]]
        return ids if b"".join(self.tokens[index] for index in ids) == wanted else self._longest(wanted)

    def _longest(self, wanted: bytes) -> list[int]:
        ids: list[int] = []
        while wanted:
            sizes = range(min(len(wanted), 64), 0, -1)
            found = next((self._ids[wanted[:size]] for size in sizes if wanted[:size] in self._ids), None)
            if found is None:  # a byte that the vocabulary lacks
                return ids
            ids.append(found)
            wanted = wanted[len(self.tokens[found]) :]
        return ids


class Guide:
    """One text under a constraint."""

    def __init__(self, guides: Guides, matcher: LLMatcher, began: bool = False) -> None:
        self._guides, self._matcher, self._began = guides, matcher, began
        self._check()

    def fork(self) -> Guide:
        """The same text so far, to be continued otherwise."""
        return Guide(self._guides, self._matcher.deep_copy(), self._began)

    @property
    def accepting(self) -> bool:
        """Whether the text as it stands satisfies the constraint."""
        return bool(self._matcher.is_accepting())

    @property
    def complete(self) -> bool:
        """Whether nothing but the end may follow."""
        return bool(self._matcher.is_stopped())

    def mask(self, vocabulary: int) -> Tensor:
        """Which tokens may come next, bool `[vocabulary]`; tokens beyond the tokenizer's may not."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        bits = np.unpackbits(packed, bitorder="little").astype(bool)
        allowed_V = np.zeros(vocabulary, dtype=bool)
        count = min(vocabulary, self._guides.vocabulary)
        allowed_V[:count] = bits[:count]
        if not self._began and (first := self._guides.first):
            allowed_V[list(first)] = bits[list(first.values())]
            allowed_V[self._guides.barred] = False
            if not allowed_V.any():  # where a space is forced, the mask has only the token that is dropped
                allowed_V[list(first)] = [self._matcher.validate_tokens([own]) == 1 for own in first.values()]
        return torch.from_numpy(allowed_V)

    def add(self, token: int) -> None:
        """Append a token that was allowed."""
        self._matcher.consume_token(token if self._began else self._guides.first.get(token, token))
        self._began = True
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            error = self._matcher.get_error().split("\n")[0]
            raise Unwritable(
                f"what is demanded cannot be written: {_short(error)}; make the schema or the expression simpler"
            )


def _json_grammar(schema: dict[str, Any]) -> str:
    from llguidance import LLMatcher

    try:
        return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=STYLE)
    except ValueError as error:  # numbers and characters that Python's JSON has and others do not
        raise Fault(f"the JSON schema is not JSON: {_short(str(error))}") from error


def _regex_grammar(pattern: str) -> str:
    from llguidance import LLMatcher, regex_to_lark

    return LLMatcher.grammar_from_lark(f"start: /{regex_to_lark(pattern, 'd')}/")


def _wrong(grammar: str) -> str:
    """What llguidance says against a grammar; nothing if it is good."""
    from llguidance import LLMatcher

    try:
        bad, said = LLMatcher.validate_grammar_with_warnings(grammar, None, limits=limits())
    except BaseException as error:  # a panic of the library: it stumbles over its own message
        if type(error).__name__ != "PanicException":
            raise
        return "it is not understood"
    return said[0].strip() if bad else ""


def _reason(error: str, pattern: str | None = None) -> str:
    """The reason in one line, and the place where one is told: a line with the expression, under it a mark."""
    lines = error.split("\n")
    reason = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None)
    if reason is None:
        return _short(lines[0].partition("(in regex): ")[2] or lines[0])
    for line, mark in pairwise(lines):
        if mark.strip().startswith("^") and pattern in (line[4:], None):
            where = f"at character {mark.index('^') - 3}"
            return f"{reason}, {where}" if pattern else f"{reason}, {where} of {_short(line[4:])!r}"
    return reason


def _place(schema: dict[str, Any], error: str) -> str:
    """Where in a bad schema the smallest part is that is bad for the same reason: ` at /properties/age`."""
    shared: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    path, tries = "", 0
    parts = _parts(schema)
    while (found := next(parts, None)) is not None and tries < SEARCHED:
        tries += 1
        step, part = found
        if isinstance(part, dict) and "$ref" not in part and _wrong(_json_grammar({**shared, **part})) == error:
            path += step
            parts = _parts(part)
    return f" at {_short(path)}" if path else ""


def _parts(schema: Any) -> Iterator[tuple[str, Any]]:
    """The schemas directly within a schema, each with the steps that lead to it."""
    if not isinstance(schema, dict):
        return
    for key in ("properties", "patternProperties", "$defs", "definitions"):
        if isinstance(schema.get(key), dict):
            yield from ((f"/{key}/{name}", part) for name, part in schema[key].items())
    for key in ("anyOf", "allOf", "oneOf", "prefixItems"):
        if isinstance(schema.get(key), list):
            yield from ((f"/{key}/{index}", part) for index, part in enumerate(schema[key]))
    for key in ("items", "additionalProperties", "not"):
        if isinstance(schema.get(key), dict):
            yield f"/{key}", schema[key]


def _short(text: str) -> str:
    text = " ".join(text.split("\n"))
    return text if len(text) <= 80 else text[:77] + "…"
