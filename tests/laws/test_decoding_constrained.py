"""Constrained writing: whatever a model prefers, what it ends is what was demanded; what cannot be demanded is told."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Pieces
from tokenizers import decoders, normalizers
from tokenizers.models import BPE
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.decoding.beam import Beams
from openbook.lm.decoding.constrain import LONGEST, Constraint, Guides
from openbook.lm.decoding.draft import Draft
from openbook.lm.decoding.generate import Writing, generate
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.model import LanguageModel
from openbook.lm.tokenizer import Tokenizer

SHARED = [HealthCheck.function_scoped_fixture]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def is_person(value: Any) -> bool:
    return (
        list(value) == ["name", "age", "tags"]
        and len(value["name"]) <= 5
        and type(value["age"]) is int
        and 0 <= value["age"] <= 150
        and len(value["tags"]) <= 2
        and set(value["tags"]) <= {"a", "b"}
    )


class Whims:
    """A model that prefers anything: random scores at every step."""

    def __init__(self, vocabulary: int, seed: int) -> None:
        self.vocabulary, self.generator = vocabulary, torch.Generator().manual_seed(seed)

    def start(self) -> Tensor:
        return self.step([0], [0])

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        return 3 * torch.randn(len(parents), self.vocabulary, generator=self.generator)


def sentencepiece(spaced: bool) -> Tokenizer:
    """A vocabulary of bytes and pieces as SentencePiece has; `spaced` puts a space before a text and drops it again."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *'{}[]",:aget0123456789', "▁a", '▁"', '{"', "name", "▁{", "▁1", "▁▁", "é", "日"]
    model = Pieces(BPE({piece: index for index, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))  # noqa: S106
    before = [normalizers.Prepend("▁")] if spaced else []
    model.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    after = [decoders.Strip(" ", 1, 0)] if spaced else []
    model.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *after])
    definition = json.loads(model.to_str())
    definition["added_tokens"] = [
        {"id": i, "content": t, "special": True, "lstrip": False, "rstrip": False, "normalized": False,
         "single_word": False}
        for i, t in enumerate(pieces[:3])
    ]  # fmt: skip
    return Tokenizer(definition, bos="<s>", eos=["</s>"])


@pytest.fixture(scope="module", params=["bytes", "pieces", "spaced pieces"])
def guides(request: pytest.FixtureRequest, tiny_model: LanguageModel) -> Guides:
    made = {
        "bytes": lambda: tiny_model.tokenizer,
        "pieces": lambda: sentencepiece(spaced=False),
        "spaced pieces": lambda: sentencepiece(spaced=True),
    }
    return Guides(made[request.param]())


def written(guides: Guides, constraint: Constraint, seed: int, limit: int = 300, **how: Any) -> tuple[str, Writing]:
    tokenizer = guides.tokenizer
    model = Whims(tokenizer.vocabulary + 3, seed)  # weights are often padded beyond the tokenizer's ids
    writing = Writing(model, tokenizer, guide=guides.guide(constraint), max_tokens=limit, **how)
    return "".join(piece.text for piece in writing), writing


@given(st.integers(0, 10_000), st.sampled_from([None, Sampling(1.0, seed=1), Sampling(repetition_penalty=1.3)]))
@settings(deadline=None, max_examples=20, suppress_health_check=SHARED)
def test_whatever_a_model_prefers_it_writes_what_the_schema_demands(
    guides: Guides, seed: int, sampling: Sampling | None
) -> None:
    text, writing = written(guides, Constraint("json_schema", json.dumps(PERSON)), seed, sampling=sampling)
    assert writing.reason in ("complete", "end") and writing.fits
    assert is_person(json.loads(text))


PATTERNS = [
    "[a-c]{2,4}",
    "(yes|no), because .{0,10}",
    " ?a+",
    " x{0,3}",
    "é*日本",
    r"\d{4}-\d\d-\d\d",
    "^(a|b)$",
    "\n{1,2}",
]


@given(st.sampled_from(PATTERNS), st.integers(0, 10_000))
@settings(deadline=None, max_examples=60, suppress_health_check=SHARED)
def test_whatever_a_model_prefers_it_writes_what_the_expression_matches(
    guides: Guides, pattern: str, seed: int
) -> None:
    text, writing = written(guides, Constraint("regex", pattern), seed)
    assert writing.fits == bool(re.fullmatch(pattern, text)), repr(text)
    assert writing.fits or writing.reason == "limit"


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(deadline=None, max_examples=30, suppress_health_check=SHARED)
def test_at_the_limit_a_text_that_does_not_fit_says_so(guides: Guides, seed: int, limit: int) -> None:
    text, writing = written(guides, Constraint("json_schema", json.dumps(PERSON)), seed, limit)
    try:
        whole = is_person(json.loads(text))
    except ValueError:
        whole = False
    assert writing.fits == whole and (whole or writing.reason == "limit")


def test_beams_search_among_what_fits(guides: Guides) -> None:
    constraint = Constraint("regex", "(yes|no|perhaps)")
    text, writing = written(guides, constraint, 3, beams=Beams(3))
    assert text in ("yes", "no", "perhaps") and writing.fits and writing.reason == "complete"


def test_of_beams_at_the_limit_one_that_fits_comes_first(tiny_model: LanguageModel) -> None:
    """`yes` fits in three tokens; `perhaps` is likelier and does not."""

    class Perhaps(Whims):
        def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
            scores = torch.zeros(len(parents), self.vocabulary)
            scores[:, tiny_model.tokenizer.encode("perhaps")] = 5.0
            return scores

    guide = Guides(tiny_model.tokenizer).guide(Constraint("regex", "yes|perhaps"))
    model = Perhaps(tiny_model.spec.vocabulary, 0)
    writing = Writing(model, tiny_model.tokenizer, guide=guide, max_tokens=3, beams=Beams(2))
    assert "".join(piece.text for piece in writing) == "yes" and writing.fits


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=20, suppress_health_check=SHARED)
def test_a_fork_goes_on_by_itself(guides: Guides, seed: int) -> None:
    draft = Draft(guides.tokenizer.eos_ids, guide=guides.guide(Constraint("regex", "[ab]{3}")))
    scores_V = torch.randn(guides.vocabulary, generator=torch.Generator().manual_seed(seed))
    first = int(draft.allow(scores_V).argmax())
    fork = draft.fork()
    fork.add(first)
    assert torch.equal(draft.allow(scores_V), draft.allow(scores_V))
    assert int(draft.allow(scores_V).argmax()) == first  # the original stands where it stood
    while draft.reason is None:
        draft.add(int(draft.allow(scores_V).argmax()))
    assert draft.reason == "complete" and fork.reason is None


def test_a_model_without_an_end_token_completes_too() -> None:
    definition = sentencepiece(spaced=False)._definition
    endless = Tokenizer(definition, bos="<s>")
    endless.eos_ids = frozenset()
    writing = Writing(Whims(endless.vocabulary, 1), endless, guide=Guides(endless).guide(Constraint("regex", "a{2}")))
    assert "".join(piece.text for piece in writing) == "aa" and writing.reason == "complete"


def test_a_real_model_is_constrained_by_generate(tiny_model: LanguageModel) -> None:
    schema = Constraint("json_schema", '{"enum": ["the comet", "the bridge"]}')
    text = "".join(piece.text for piece in generate(tiny_model, "What is 212 metres long?", constraint=schema))
    assert json.loads(text) in ("the comet", "the bridge")


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("json_schema", '{"type": "object",}', ["not JSON", "line 1 column 19"]),
        ("json_schema", '{"type": "objekt"}', ["Invalid type: objekt"]),
        ("json_schema", "[1]", ["a JSON schema is an object", "[1]"]),
        ("json_schema", "[" * 3000, ["deep"]),
        ("json_schema", '{"properties": {"a": {"items": {"not": {}}}}}', ["at /properties/a/items", "not"]),
        (
            "json_schema",
            '{"$defs": {"x": {"anyOf": [{}, {"type": "int"}]}}, "$ref": "#/$defs/x"}',
            ["/$defs/x/anyOf/1"],
        ),
        ("json_schema", '{"$ref": "https://example.org/schema.json"}', ["not present"]),
        ("json_schema", '{"type": "string", "pattern": "("}', ["unclosed group, at character 1 of '('"]),
        ("json_schema", '{"type": "string", "pattern": "(?=a)b"}', ["look"]),
        ("json_schema", "false", ["is an object"]),
        ("json_schema", '{"lenient": 1, "x-guidance": {"lenient": true}, "not": {}}', ["not"]),
        ("json_schema", " " * (LONGEST + 1), ["too long"]),
        ("regex", "", ["empty"]),
        ("regex", "a(b", ["unclosed group", "character 2"]),
        ("regex", "(?=x)y", ["look", "character 1"]),
        ("regex", r"\bword", ["lookarounds not supported"]),
        ("regex", "x{3,1}", ["invalid repetition", "character 2"]),
        ("regex", "a" * (LONGEST + 1), ["too long"]),
    ],
)
def test_what_cannot_be_demanded_is_told_with_its_place(kind: Any, text: str, words: list[str]) -> None:
    with pytest.raises(Fault) as caught:
        Constraint(kind, text)
    message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message and len(message) < 400, message


def test_a_panic_of_the_library_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cuts its messages at a byte, which may lie within a character."""

    class PanicException(BaseException):
        pass

    class Panics:
        grammar_from_lark = str

        @staticmethod
        def validate_grammar_with_warnings(*_: Any, **__: Any) -> None:
            raise PanicException("end byte index 100 is not a char boundary")

    monkeypatch.setattr("llguidance.LLMatcher", Panics)
    with pytest.raises(Fault, match="not understood"):
        Constraint("regex", "a")


def test_demands_of_strangers_are_bounded(tiny_model: LanguageModel) -> None:
    """Either the work is small, or it is refused: while the grammar is made, or at the step that would be too much."""
    many: dict[str, Any] = {
        "allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {}}} for j in range(8)]} for i in range(8)]
    }
    with pytest.raises(Fault, match="too large"):
        Constraint("json_schema", json.dumps(many))
    guides = Guides(tiny_model.tokenizer)
    for pattern in ("((a{100}){100}){100}", "(a?){1000}a{1000}"):
        with pytest.raises(Fault, match="too many expressions"):
            written(guides, Constraint("regex", pattern), 0)
    text, _ = written(guides, Constraint("regex", "(x+x+)+y"), 0, limit=40)
    assert set(text) <= {"x", "y"}


def test_tokens_that_do_not_spell_bytes_cannot_be_constrained(tiny_model: LanguageModel) -> None:
    class Words:
        spells_bytes = False

    with pytest.raises(Fault, match="spell"):
        Guides(Words())  # type: ignore[arg-type]


def test_what_no_token_can_spell_is_told() -> None:
    small = sentencepiece(spaced=False)
    guide = Guides(small).guide(Constraint("regex", "a"))
    with pytest.raises(Fault, match="no token of this model"):
        Draft(guide=guide).allow(torch.full((small.vocabulary,), float("-inf")))


KEYWORDS = [
    "type", "properties", "items", "enum", "const", "anyOf", "oneOf", "allOf", "not", "$ref", "$defs", "pattern",
    "format", "required", "minimum", "maximum", "multipleOf", "minItems", "maxItems", "minLength", "maxLength",
    "additionalProperties", "prefixItems", "patternProperties", "if", "then", "x-guidance", "exclusiveMinimum",
]  # fmt: skip
WORDS_IN_SCHEMAS = [
    "string",
    "object",
    "#",
    "#/$defs/a",
    "a*",
    "(",
    "date",
    "\ud800",
    "\x00",
    "é\n",
    "integer",
    "array",
]
SCALARS = st.sampled_from([None, True, False, 0, -1, 2.5, 1e300, 10**40, *WORDS_IN_SCHEMAS])
NAMES = st.sampled_from([*KEYWORDS, "a", "é\n"])
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KEYWORDS), ANYTHING, max_size=4))
@settings(deadline=None, max_examples=200)
def test_any_schema_is_taken_or_refused_in_a_line(schema: dict[str, Any]) -> None:
    try:
        Constraint("json_schema", json.dumps(schema))
    except Fault as fault:
        assert "\n" not in str(fault) and len(str(fault)) < 500


@given(st.text(st.sampled_from("ab(){}[]|*+?\\^$.-dwsb/,09é\n\x00\ud800\"'&~<>=!:P#i "), max_size=14))
@settings(deadline=None, max_examples=200)
def test_any_expression_is_taken_or_refused_in_a_line(pattern: str) -> None:
    try:
        Constraint("regex", pattern)
    except Fault as fault:
        assert "\n" not in str(fault) and len(str(fault)) < 500
