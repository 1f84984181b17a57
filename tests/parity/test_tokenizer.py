"""Token ids equal those of transformers; text comes back; text from outside never becomes a control token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from openbook.errors import Fault
from openbook.home import home
from openbook.lm.tokenizer import Tokenizer
from openbook.lm.weights.checkpoint import open_checkpoint
from openbook.lm.weights.tokenizer_gguf import CUTS, NORMAL, USER, merges_of

SMOLLM2 = home() / "models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = home() / "models/minilm"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who wrote  Emma?\n"}]

# Pieces in which tokenizers differ: scripts, digits, runs of spaces, marks that combine, joined emoji, odd spaces.
PIECES = [
    "the ",
    "Don't",
    "WE'LL",
    "naïve ",
    "中文",
    "日本語。",
    "한국",
    "🎉",
    "👩‍👩‍👧",
    "ё",
    "e\u0301",
    "\u00a0",
    "\u3000",
    "\t",
    "x_y",
]
SPACES = st.text(" \n\t", max_size=6)
TEXT = st.lists(
    st.one_of(st.sampled_from(PIECES), SPACES, st.text("0123456789", max_size=5), st.text(max_size=8)), max_size=8
).map("".join)
ODD = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<s>", "</s>", "[CLS]", "[SEP]", "[MASK]", "<|eot_id|>", "<0x41>"]


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    if not SMOLLM2.is_file():
        pytest.skip("needs: openbook models pull smollm2")
    return open_checkpoint(SMOLLM2).tokenizer()


@pytest.fixture(scope="module")
def smollm2_oracle(smollm2: Tokenizer) -> Any:
    """transformers' reading of the file, with the cut that `tokenizer.ggml.pre = smollm` means.

    transformers (5.23) overlooks that name and cuts as GPT-2 does; the published tokenizer.json and llama.cpp both
    put each digit apart first.
    """
    from transformers import AutoTokenizer

    oracle = AutoTokenizer.from_pretrained(SMOLLM2.parent, gguf_file=SMOLLM2.name)
    oracle.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return oracle


@pytest.fixture(scope="module")
def minilm() -> Tokenizer:
    if not (MINILM / "tokenizer.json").is_file():
        pytest.skip("needs: openbook models pull minilm")
    return open_checkpoint(MINILM).tokenizer()


def spelled(tokenizer: Tokenizer, text: str) -> str:
    """The text without the characters that SmolLM2 has no bytes for; its own tokenizer loses them too."""
    return "".join(character for character in text if tokenizer.unspelled.isdisjoint(character.encode()))


@given(text=TEXT)
@settings(max_examples=300, deadline=None)
def test_smollm2_as_transformers(smollm2: Tokenizer, smollm2_oracle: Any, text: str) -> None:
    ids = smollm2.encode(text)
    assert ids == smollm2_oracle(text, add_special_tokens=False).input_ids
    kept = spelled(smollm2, text)
    assert smollm2.decode(smollm2.encode(kept)) == kept


def test_every_character_in_use_is_spelled(smollm2: Tokenizer) -> None:
    assert spelled(smollm2, "".join(PIECES)) == "".join(PIECES)
    assert smollm2.unspelled.isdisjoint(range(32, 127)) and smollm2.unspelled.isdisjoint(b"\n\t\r")


@given(text=TEXT)
@settings(max_examples=300, deadline=None)
def test_minilm_as_transformers(minilm: Tokenizer, text: str) -> None:
    from transformers import AutoTokenizer

    oracle = _cached(AutoTokenizer, MINILM)
    assert minilm.encode(text, special=True) == oracle(text).input_ids
    assert minilm.encode(text) == oracle(text, add_special_tokens=False).input_ids
    assert minilm.decode(minilm.encode(text)) == oracle.backend_tokenizer.decode(minilm.encode(text))


_ORACLES: dict[Path, Any] = {}


def _cached(kind: Any, folder: Path) -> Any:
    if folder not in _ORACLES:
        _ORACLES[folder] = kind.from_pretrained(folder)
    return _ORACLES[folder]


def test_a_long_text_is_neither_cut_nor_padded(minilm: Tokenizer) -> None:
    # Its tokenizer.json asks for both, at 128.
    assert len(minilm.encode("word " * 300, special=True)) == 302 and len(minilm.encode("word", special=True)) == 3
    assert minilm.encode_batch(["word", "two words"], special=True) == [
        minilm.encode(text, special=True) for text in ("word", "two words")
    ]


def test_templates_as_transformers(smollm2: Tokenizer, smollm2_oracle: Any) -> None:
    for generate in (True, False):
        rendered = smollm2.render_chat(CHAT, generate)
        assert rendered == smollm2_oracle.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=generate)
        expected = smollm2_oracle.apply_chat_template(CHAT, add_generation_prompt=generate)["input_ids"]
        assert smollm2.encode_template(rendered) == smollm2.encode_chat(CHAT, generate) == expected
    assert smollm2.eos_ids == {0, 2} and smollm2.bos_id == 1 and smollm2.vocabulary == 49152


@given(parts=st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=4)), max_size=6))
@settings(max_examples=200, deadline=None)
def test_no_text_becomes_a_control_token(smollm2: Tokenizer, minilm: Tokenizer, parts: list[str]) -> None:
    text = spelled(smollm2, "".join(parts))
    ids = smollm2.encode(text)
    assert smollm2.control_ids.isdisjoint(ids) and smollm2.decode(ids) == text
    unknown = {100}  # [UNK] stands for a character that the vocabulary lacks; it controls nothing
    assert (minilm.control_ids - unknown).isdisjoint(minilm.encode(text))
    assert minilm.encode(text, special=True) == [101, *minilm.encode(text), 102]


@given(parts=st.lists(st.one_of(st.sampled_from(ODD), TEXT), max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_message_cannot_end_its_turn(smollm2: Tokenizer, parts: list[str]) -> None:
    content = spelled(smollm2, "".join(parts))
    ids = smollm2.encode_chat([{"role": "user", "content": content}])
    control = [index for index in ids if index in smollm2.control_ids]
    assert control == [1, 2, 1, 2, 1]  # the template's own: system, user, and the assistant's beginning
    start = [i for i, index in enumerate(ids) if index == 1][1]
    end = [i for i, index in enumerate(ids) if index == 2][1]
    assert smollm2.decode(ids[start + 1 : end]) == f"user\n{content}"


@given(parts=st.lists(st.one_of(st.sampled_from(ODD), TEXT), max_size=6))
@settings(max_examples=200, deadline=None)
def test_templates_cut_by_us_are_as_cut_by_the_library(smollm2: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    assert smollm2._parts_freely
    assert smollm2.encode_template(text) == smollm2._whole.encode(text, add_special_tokens=False).ids


def test_the_template_itself_may(smollm2: Tokenizer) -> None:
    assert smollm2.encode_template("<|im_start|>user")[0] == 1
    assert 2 in smollm2.encode_template("a<|im_end|>b") and 2 not in smollm2.encode("a<|im_end|>b")


@given(text=TEXT)
@settings(max_examples=200, deadline=None)
def test_a_stream_says_what_decode_says(smollm2: Tokenizer, text: str) -> None:
    text = spelled(smollm2, text)
    ids = smollm2.encode(text)
    stream = smollm2.stream()
    pieces = [stream.push(index) for index in ids]
    assert "".join(pieces) + stream.flush() == text
    assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in text


@given(ids=st.lists(st.integers(0, 49200), max_size=12))
@settings(max_examples=100, deadline=None)
def test_any_ids_stream_and_decode_alike(smollm2: Tokenizer, ids: list[int]) -> None:
    stream = smollm2.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == smollm2.decode(ids)


def test_words_stream_too(minilm: Tokenizer) -> None:
    text = "Unaffable giraffes don't philosophise, untranslatably. " * 20
    ids = minilm.encode(text)
    stream = minilm.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == minilm.decode(ids)


def test_half_a_character_is_a_question_mark(smollm2: Tokenizer) -> None:
    assert smollm2.encode("a\ud800b") == smollm2.encode("a?b") == smollm2.encode_batch(["a\ud800b"])[0]


# Tokenizers made here, so that the rest needs no download.

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


@pytest.mark.parametrize("pre", sorted(CUTS))
@given(text=TEXT)
@settings(max_examples=25, deadline=None)
def test_every_cut_gives_the_text_back(pre: str, text: str) -> None:
    tokenizer = _made(pre)
    whole = text + "<|eot_id|> <|bos|>"
    ids = tokenizer.encode(whole)
    assert tokenizer.control_ids.isdisjoint(ids)
    if "qwen" not in pre:  # Qwen's normalises to NFC
        assert tokenizer.decode(ids) == whole
    think = tokenizer.vocabulary - 1
    assert tokenizer.encode("a<think>b").count(think) == 1  # an added token that controls nothing stays one


_MADE: dict[str, Tokenizer] = {}


def _made(pre: str) -> Tokenizer:
    if pre not in _MADE:
        _MADE[pre] = Tokenizer.from_gguf(byte_level_metadata(pre))
    return _MADE[pre]


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2"])
@given(text=TEXT)
@settings(max_examples=60, deadline=None)
def test_cuts_are_those_of_transformers(pre: str, text: str) -> None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    ours = CUTS[pre]().steps[0]["pattern"]["Regex"]
    theirs = GGUF_PRE_TOKENIZER_SPLITS[pre]
    from tokenizers import Regex

    left, right = (pre_tokenizers.Split(Regex(regex), "isolated") for regex in (ours, theirs))
    assert left.pre_tokenize_str(text) == right.pre_tokenize_str(text)


def test_a_control_token_that_is_a_whole_word_cannot_be_spelled() -> None:
    # llama-bpe takes a word that is in the vocabulary without merging: the case in which a control token made of
    # letters alone would be reached by plain text.
    metadata = byte_level_metadata("llama-bpe")
    metadata["tokenizer.ggml.tokens"][-3] = "STOP"
    tokenizer = Tokenizer.from_gguf(metadata)
    stop = tokenizer.bos_id
    assert tokenizer.encode_template("STOP") == [stop]
    assert stop not in tokenizer.encode("STOP") and tokenizer.decode(tokenizer.encode("STOP")) == "STOP"


def test_bos_comes_only_when_asked_for() -> None:
    for pre, own in (("llama-bpe", True), ("smollm", False)):
        for stated in (None, True, False):
            metadata = byte_level_metadata(pre)
            if stated is not None:
                metadata["tokenizer.ggml.add_bos_token"] = stated
            tokenizer = Tokenizer.from_gguf(metadata)
            plain = tokenizer.encode("the cat")
            wanted = [tokenizer.bos_id] if (own if stated is None else stated) else []
            assert tokenizer.encode("the cat", special=True) == [*wanted, *plain]
            assert tokenizer.bos_id not in plain and tokenizer.encode_template("the cat") == plain


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


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    return Tokenizer.from_gguf(sentencepiece_metadata())


@given(text=TEXT)
@settings(max_examples=150, deadline=None)
def test_sentencepiece_gives_the_text_back_by_bytes(pieces: Tokenizer, text: str) -> None:
    if "▁" in text:  # SentencePiece spells a space with it, so the two cannot be told apart
        return
    whole = text + "<s></s>"
    ids = pieces.encode(whole)
    assert pieces.control_ids.isdisjoint(ids) and pieces.decode(ids) == whole
    stream = pieces.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == whole
    assert pieces.encode(text, special=True) == [1, *pieces.encode(text)]


@given(text=TEXT)
@settings(max_examples=150, deadline=None)
def test_sentencepiece_as_transformers(pieces: Tokenizer, text: str) -> None:
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    if "oracle" not in _SP:
        metadata = sentencepiece_metadata()
        vocabulary = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
        scores = dict(zip(vocabulary, metadata["tokenizer.ggml.scores"], strict=True))
        _SP["oracle"] = LlamaTokenizer(vocab=vocabulary, merges=generate_merges(vocabulary, scores))
    # Spaces at the start differ between two generations of the reference (normaliser or Metaspace).
    text = text.lstrip(" ▁")
    if not any(token in text for token in ("<s>", "</s>", "<unk>")):
        assert pieces.encode(text) == _SP["oracle"](text, add_special_tokens=False).input_ids


_SP: dict[str, Any] = {}


def test_merges_come_from_scores() -> None:
    tokens, scores = ["a", "b", "c", "ab", "bc", "abc"], [-9.0, -9.0, -9.0, -1.0, -2.0, -3.0]
    merges = merges_of(tokens, scores, [NORMAL] * 6)
    assert merges == [["a", "b"], ["b", "c"], ["a", "bc"], ["ab", "c"]]
    assert merges_of(tokens, scores, [NORMAL] * 5 + [3]) == merges[:2]  # nothing merges into a control token
    assert merges_of(tokens, scores, [NORMAL] * 5 + [USER]) == merges


def test_what_is_not_supported_is_refused_by_name(tmp_path: Path) -> None:
    good = byte_level_metadata("smollm")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tokenizer.ggml.pre": "mystery"}, "'mystery' is not supported; .*smollm"),
        ({"tokenizer.ggml.model": "t5"}, "'t5' is not supported"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokenizer.ggml.token_type": [1]}, "token_type"),
        ({"tokenizer.ggml.merges": ["a b c"]}, "'a b c'"),
        ({"tokenizer.ggml.merges": ["qq zz"]}, "'qq zz'"),
    ]
    for change, said in cases:
        with pytest.raises(Fault, match=said):
            Tokenizer.from_gguf({**good, **change})
    for content in (
        {},
        {"model": {"type": "Unigram", "vocab": {}}},
        {"model": {"vocab": {"a": "b"}}},
        {"model": {"vocab": {}}, "added_tokens": [1]},
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(Fault, match=r"tokenizer\.json"):
            Tokenizer.from_file(tmp_path / "tokenizer.json")


def folder_with(tmp_path: Path, **files: Any) -> Path:
    backend = Backend(models.BPE({chr(97 + i): i for i in range(4)} | {"</s>": 4}, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>", "<s>", "<|eot_id|>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_a_folder_says_what_ends_an_answer(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(
        folder_with(
            tmp_path,
            tokenizer_config={
                "bos_token": {"content": "<s>"},
                "eos_token": "</s>",
                "chat_template": "{{ bos_token }}x",
            },
            generation_config={"eos_token_id": [4, 3, 999]},
        )
    )
    assert tokenizer.bos_id == 5 and tokenizer.eos_ids == {3, 4, 6}
    assert tokenizer.encode("ab") == [0, 1] and tokenizer.encode_template("a</s>") == [0, 4]
    assert tokenizer.encode("d") == []  # an id that the model's own config calls an end cannot be spelled
    assert tokenizer.render_chat(CHAT) == "<s>x"


def test_a_template_in_a_file_of_its_own_and_in_a_list(tmp_path: Path) -> None:
    listed = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    folder = folder_with(tmp_path, tokenizer_config={"chat_template": listed})
    assert Tokenizer.from_folder(folder).render_chat([]) == "d"
    (folder / "chat_template.jinja").write_text("f")
    assert Tokenizer.from_folder(folder).render_chat([]) == "f"


def templated(tmp_path: Path, template: str | None) -> Tokenizer:
    return Tokenizer.from_folder(folder_with(tmp_path, tokenizer_config={"chat_template": template}))


def test_without_a_template_it_is_plain(tmp_path: Path) -> None:
    tokenizer = templated(tmp_path, None)
    assert tokenizer.render_chat(CHAT) == "System: Be brief.\n\nUser: Who wrote  Emma?\n\n\nAssistant:"
    assert tokenizer.render_chat(CHAT[:1], add_generation_prompt=False) == "System: Be brief."


NESTED = "{% set n = namespace(x=[1]) %}{% for a in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
FAILING = {
    "{{ raise_exception('roles must alternate') }}": "roles must alternate",
    "{% for %}": "TemplateSyntaxError",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ ''.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}": "SecurityError",
    "{{ messages.append(1) }}": "SecurityError",
    "{{ 'x' * 10 ** 9 }}": "multiplies",
    "{{ 9 ** 9 ** 9 }}": "multiplies",
    "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}": "loops over more",
    "{% for a in range(99) %}{{ 'x' * 999999 }}{% endfor %}": "wrote more than",
    "{{ strftime_now('%d') }}": "UndefinedError",
    "{{ [1, 2] | random }}": "No filter named 'random'",
    "{% set n = namespace(x='ab') %}{% for a in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}": "longer than",
    "{% set n = namespace(x='ab') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}": "longer than",
    "{% set n = namespace(x=[1]) %}{% for a in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}": "longer than",
    NESTED + "{{ n.x }}": "list of",
    NESTED + "{{ n.x|upper }}": "list of",
    NESTED + "{{ n.x ~ 1 }}": "list of",
    NESTED.replace("[n.x, n.x]", "{'a': n.x, 'b': n.x}") + "{{ n.x | tojson }}": "list of",
    "{% set n = namespace(x='a') %}{% for a in range(60) %}{% set n.x %}{{n.x}}{{n.x}}{% endset %}{% endfor %}": "than",
    "{{ '%1000000000d' % 1 }}": "formats wider",
    "{{ '%*d' % (1000000000, 1) }}": "formats wider",
    "{{ '%1000000000d' | format(1) }}": "formats wider",
    "{{ ('%s' * 100000) | format(*(['x' * 100000] * 100000)) }}": "multiplies|longer than",
    "{{ '{:1000000000}'.format(1) }}": "formats wider",
    "{{ '{:{}}'.format(1, 1000000000) }}": "formats wider",
    "{{ ('{0}' * 100000).format('x' * 1000000) }}": "longer than",
    "{{ ('{a}' * 100000).format_map({'a': 'x' * 1000000}) }}": "longer than",
    "{{ 'x' | center(1000000000) }}": "longer than",
    "{{ 'x'.ljust(1000000000) }}": "longer than",
    "{{ 'x'.rjust(1000000000) ~ 'x'.center(1000000000) ~ 'x'.zfill(1000000000) }}": "longer than",
    "{{ '\t'.expandtabs(1000000000) }}": "longer than",
    "{{ 'x\ny' | indent(1000000000) }}": "longer than",
    "{{ [[1]] | tojson(indent=1000000000) }}": "indents JSON",
    "{{ ('x' * 1000000) | replace('x', 'y' * 1000000) }}": "longer than",
    "{{ ('x' * 1000000).replace('x', 'y' * 1000000) }}": "longer than",
    "{{ (['x'] * 100000) | join('y' * 100000) }}": "longer than",
    "{{ ('y' * 100000).join(['x'] * 100000) }}": "longer than",
    "{{ ('x' * 1000000).translate({120: 'y' * 1000000}) }}": "which no prompt needs",
    "{{ 'x'.encode().ljust(1000000000) }}": "which no prompt needs",
    "{{ 1.5 | round(1000000000, 'ceil') }}": "No filter named 'round'",
}


@pytest.mark.parametrize("template", FAILING)
def test_a_bad_template_is_a_fault(template: str, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=FAILING[template]):
        templated(tmp_path, template).render_chat(CHAT)


def test_templates_have_what_the_hub_expects(tmp_path: Path) -> None:
    text = "{% for m in messages %}\n    {% if loop.index > 1 %}{% break %}{% endif %}\n{{ m | tojson }}\n{% endfor %}"
    assert templated(tmp_path, text).render_chat(CHAT) == '{"role": "system", "content": "Be brief."}\n'
    with pytest.raises(Fault, match="no role"):
        templated(tmp_path, text).render_chat([{"content": "x"}])


def test_templates_may_do_what_templates_do(tmp_path: Path) -> None:
    text = (
        "{% set a = ['x', 'y'] + ['z'] %}{{ a | join('-') }} {{ a | length }} {{ '%s=%d' % ('n', 3) }} {{ 7 % 4 }} "
        "{{ 'a' ~ 1 ~ none }} {{ '{}:{:>3}'.format('k', 5) }} {{ 'x\ny' | indent(2) }} {{ ' b ' | trim | upper }} "
        "{{ messages | map(attribute='role') | join(', ') }} {{ messages | join('+', attribute='role') }} "
        "{{ 'aXa'.replace('a', 'b').split('X') }} {{ 'q' | center(3) }}{% set s %}t{{ 1 }}{% endset %}{{ s }} "
        "{{ '%s%%' | format(5) }} {{ messages[0] | tojson(indent=2) }} {{ 2 * 3 + 1 }}{{ '=' * 3 }} "
        "{{ (messages | selectattr('role', 'equalto', 'user') | list | first).role }} {{ 'ab'.join(['1', '2']) }}"
    )
    found = templated(tmp_path, text).render_chat(
        [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    )
    assert found == (
        "x-y-z 3 n=3 3 a1None k:  5 x\n  y B system, user system+user ['b', 'b']  q t1 5% "
        '{\n  "role": "system",\n  "content": "s"\n} 7=== user 1ab2'
    )


GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
)


def test_a_template_without_a_system_role_gets_its_text_before_the_question(tmp_path: Path) -> None:
    tokenizer = templated(tmp_path, GEMMA)
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?</s>"}
    assert tokenizer.render_chat([system, user]) == "<user>Be brief.\n\nWho?</s></s>"
    ids = tokenizer.encode_chat([system, user])
    assert ids.count(4) == 1 and ids[-1] == 4, "the spelling in the question ends no turn"
    for refused in ([system], [system, system, user], [user, user], [{**system, "content": None}, user]):
        with pytest.raises(Fault, match=r"System role not supported|alternate"):
            tokenizer.render_chat(refused)


def test_a_piece_too_long_to_split_is_refused() -> None:
    with pytest.raises(Fault, match="has 5000 characters"):
        merges_of(["a", "b" * 5000], [0.0, 0.0], [1, 1])
