"""Text to token ids and back, for the tokenizers of open models.

Text from outside must never become a control token: a document that contains the characters `<|im_end|>` is not
the end of a turn. So `encode` uses an encoder in which control tokens do not exist: they are
taken out of the added tokens, renamed in the vocabulary to what no text can spell, and their merges dropped.
`encode_template` sees the control tokens in text that this program wrote itself.
"""

from __future__ import annotations

import codecs
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from openbook.errors import Fault
from openbook.lm.weights import chat
from openbook.lm.weights.chat import Message
from openbook.lm.weights.safetensors import read_json
from openbook.lm.weights.tokenizer_gguf import definition
from openbook.lm.weights.tokenizer_json import (
    BYTE_OF,
    build,
    checked,
    content_of,
    decoders,
    ids_of,
    template_of,
    tokenizer_file,
    without_control,
)

END_OF_TURN = frozenset(
    {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<end_of_turn>", "</s>"}
)


class Tokenizer:
    """The tokenizer of one checkpoint, made by `from_file`, `from_folder` or `from_gguf`.

    `vocabulary` counts its ids; `eos_ids` are those that end an answer; `bos_id` begins a text where the model wants
    it; `control_ids` can come only from a template; `chat_template` is jinja2 or None.
    """

    def __init__(
        self,
        definition: Mapping[str, Any],
        *,
        bos: str | int | None = None,
        eos: Iterable[str | int] = (),
        chat_template: str | None = None,
        where: str = "tokenizer.json",
    ) -> None:
        self._definition = checked(definition, where)
        self._where = where
        self.chat_template = chat_template
        model, added = self._definition["model"], self._definition["added_tokens"]
        self._ids: dict[str, int] = {**ids_of(model), **{token["content"]: token["id"] for token in added}}
        self._tokens = {index: token for token, index in self._ids.items()}
        self._added = {token["id"] for token in added}
        self.vocabulary = max(self._tokens, default=-1) + 1
        self.bos_id = self._id(bos)
        special = {token["id"] for token in added if token["special"]}
        eos = list(eos)
        self._eos = next((index for token in eos if (index := self._id(token)) is not None), None)
        ends = {self._id(token) for token in eos} | {self._ids[t] for t in END_OF_TURN if self._ids.get(t) in special}
        self.eos_ids: frozenset[int] = frozenset(index for index in ends if index is not None)
        begins = set() if self.bos_id is None else {self.bos_id}
        self.control_ids: frozenset[int] = frozenset(special | self.eos_ids | begins)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """From a `tokenizer.json` alone: no BOS, no template."""
        return cls(read_json(Path(path)), where=str(path))

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """From a model folder: tokenizer.json, and what tokenizer_config, generation_config and config add."""
        folder = Path(folder)
        config, generation, model = (
            read_json(folder / name) if (folder / name).is_file() else {}
            for name in ("tokenizer_config.json", "generation_config.json", "config.json")
        )
        ends = [content_of(config.get("eos_token")), generation.get("eos_token_id"), model.get("eos_token_id")]
        bos = content_of(config.get("bos_token"))
        return cls(
            read_json(tokenizer_file(folder)),
            bos=bos if bos is not None else model.get("bos_token_id"),
            eos=[end for some in ends for end in (some if isinstance(some, list) else [some]) if end is not None],
            chat_template=template_of(folder, config),
            where=str(folder / "tokenizer.json"),
        )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], where: str = "GGUF") -> Tokenizer:
        """From the metadata of a GGUF file (`tokenizer.ggml.*`)."""
        names = ("eos", "eot", "eom")
        template = metadata.get("tokenizer.chat_template")
        return cls(
            definition(metadata, where),
            bos=metadata.get("tokenizer.ggml.bos_token_id"),
            eos=[metadata[key] for name in names if (key := f"tokenizer.ggml.{name}_token_id") in metadata],
            chat_template=template if isinstance(template, str) else None,
            where=where,
        )

    def _id(self, token: object) -> int | None:
        """The id of a token given by text or id; None for one that is not in the vocabulary."""
        if isinstance(token, str):
            return self._ids.get(token)
        return token if isinstance(token, int) and token in self._tokens else None

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of untrusted text: no part of it becomes a control token, whatever it spells.

        `special` adds what the model wants around every text (BOS; `[CLS]` and `[SEP]` of BERT) and nothing else.
        """
        ids: list[int] = self._plain.encode(well_formed(text), add_special_tokens=special).ids
        return ids

    def encode_at(self, text: str) -> tuple[list[int], list[int]]:
        """`encode`, and for each id the character of the text where what it stands for begins.

        A character in several pieces gives each of them its own place.
        """
        encoding = self._plain.encode(well_formed(text), add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    def encode_batch(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """`encode` of each text, in parallel."""
        sound = list(map(well_formed, texts))
        return [encoding.ids for encoding in self._plain.encode_batch(sound, add_special_tokens=special)]

    def encode_template(self, text: str) -> list[int]:
        """Ids of text that this program wrote: control tokens in it are control tokens. No BOS is added."""
        if self._parts_freely:
            return self._parted(text, str)
        ids: list[int] = self._whole.encode(well_formed(text), add_special_tokens=False).ids
        return ids

    def _parted(self, text: str, restore: Callable[[str], str]) -> list[int]:
        """Ids of text cut at its control tokens, what lies between them encoded as plain after `restore`."""
        ids: list[int] = []
        for place, piece in enumerate(self._spelled.split(text)):
            if place % 2:
                ids.append(self._ids[piece])
                continue
            # Phi-3's control tokens swallow the space after them.
            rest = piece.lstrip() if ids and ids[-1] in self._swallowing else piece
            ids += self.encode(restore(rest)) if rest else []
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, control tokens left out, bytes that are not UTF-8 as U+FFFD."""
        kept = [index for index in ids if index not in self.control_ids]
        if not self.spells_bytes:
            text: str = self._plain.decode(kept, skip_special_tokens=True)
            return text
        text = b"".join(map(self.token_bytes, kept)).decode("utf-8", "replace")
        return text[1:] if self.strips_space and text.startswith(" ") else text

    def stream(self) -> Stream:
        """A decoder that is given one id at a time."""
        return Stream(self)

    def token_bytes(self, index: int) -> bytes:
        """The bytes that an id stands for; none for control tokens and ids beyond the vocabulary.

        Only where the tokenizer spells bytes (byte-level and SentencePiece BPE); else the UTF-8 of its spelling.
        """
        token = self._tokens.get(index)
        if token is None or index in self.control_ids:
            return b""
        if index in self._added or not self.spells_bytes:
            return token.encode()
        if "ByteLevel" in self._decoders:
            codes = [BYTE_OF.get(character) for character in token]
            return bytes([code for code in codes if code is not None]) if None not in codes else token.encode()
        if fallback := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token):
            return bytes([int(fallback[1], 16)])
        return token.replace("▁", " ").encode()

    def spelling(self, index: int) -> tuple[str | None, bytes]:
        """An id as the vocabulary spells it (None: not at all), and the bytes that it stands for."""
        return self._tokens.get(index), self.token_bytes(index)

    @cached_property
    def unspelled(self) -> frozenset[int]:
        """Bytes that a byte-level vocabulary lacks: `encode` leaves them out, as the model's own tokenizer does.

        Twenty or so in SmolLM2: control characters, and bytes of UTF-8 that no assigned character needs.
        """
        if "ByteLevel" not in self._decoders:
            return frozenset()
        return frozenset(byte for character, byte in BYTE_OF.items() if character not in self._ids)

    def render_chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The prompt of `messages` (each with `role` and `content`) by the model's chat template.

        A model without one gets paragraphs and `Answer:`. Where the template refuses a system
        message, as Gemma's and Mistral's do, its text begins the first user message instead. Encode it with
        `encode_template` only if the messages are trusted; else use `encode_chat`. Raises `Fault` if the template
        fails.
        """
        ends = {"bos_token": self.bos_id, "eos_token": self._eos}
        names = {name: "" if index is None else self._tokens[index] for name, index in ends.items()}
        try:
            return chat.render(self.chat_template, messages, add_generation_prompt, **names)
        except Fault:
            folded = chat.folded(messages)
            if folded is None:
                raise
            return chat.render(self.chat_template, folded, add_generation_prompt, **names)

    @property
    def turn_ends(self) -> tuple[str, ...]:
        """Strings that end an answer besides the end tokens: a model without a template goes on after a blank line."""
        return ("\n\n",) if self.chat_template is None else ()

    def encode_chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """Ids of the chat prompt in which no message can spell a control token; the template's own stay what they are.

        A message that spells none is encoded exactly as `encode_template(render_chat(…))`.
        """
        if not any(self._spelled.search(_text(message)) for message in messages):
            return self.encode_template(self.render_chat(messages, add_generation_prompt))
        # Each spelling goes through the template as a mark, and back to its characters outside the template's tokens.
        nonce = secrets.token_hex(8)
        found: list[str] = []

        def mark(match: re.Match[str]) -> str:
            found.append(match[0])
            return f"\ue000{nonce}:{len(found) - 1}\ue001"

        def restore(text: str) -> str:
            return re.sub(f"\ue000{nonce}:(\\d+)\ue001", lambda match: found[int(match[1])], text)

        marked = [{**message, "content": self._spelled.sub(mark, _text(message))} for message in messages]
        return self._parted(self.render_chat(marked, add_generation_prompt), restore)

    @cached_property
    def _spelled(self) -> re.Pattern[str]:
        """What spells a control token; longer spellings first, so that one that begins another does not hide it."""
        spellings = sorted((self._tokens[index] for index in self.control_ids & self._added), key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, spellings))})" if spellings else r"((?!))")

    @cached_property
    def _swallowing(self) -> frozenset[int]:
        """Control tokens that take the space after them with them."""
        added = self._definition["added_tokens"]
        return frozenset(token["id"] for token in added if token.get("rstrip")) & self.control_ids

    @cached_property
    def _parts_freely(self) -> bool:
        """Whether text cut at control tokens by us encodes as text cut by the library, so that one encoder serves.

        True where control tokens take no spaces with them and look at no neighbour, and where what is between two is
        read alike wherever it stands: byte-level tokenizers, and SentencePiece from GGUF.
        """
        flags = ("lstrip", "rstrip", "single_word", "normalized")
        controls = [token for token in self._definition["added_tokens"] if token["id"] in self.control_ids]
        normalizer, cut = self._definition.get("normalizer") or {}, self._definition.get("pre_tokenizer")
        bytewise = "ByteLevel" in self._decoders and normalizer.get("type") in (None, "NFC")
        return (
            (bytewise or ("ByteFallback" in self._decoders and cut is None))
            and '"add_prefix_space": true' not in json.dumps(cut)
            and not any(token.get(flag) for token in controls for flag in flags)
        )

    @cached_property
    def _decoders(self) -> frozenset[str]:
        return frozenset(step["type"] for step in decoders(self._definition))

    @cached_property
    def spells_bytes(self) -> bool:
        """Whether a text is its tokens' bytes one after the other, so that a byte of it belongs to one token."""
        return not self._decoders.isdisjoint({"ByteLevel", "ByteFallback", "Metaspace"})

    @cached_property
    def strips_space(self) -> bool:
        """Whether a space was put before the text when it was encoded, to be dropped from what is decoded."""
        return not self._decoders.isdisjoint({"Strip", "Metaspace"})

    @cached_property
    def _whole(self) -> Any:
        return build(self._definition, self._where)

    @cached_property
    def _plain(self) -> Any:
        """The encoder in which control tokens do not exist."""
        return build(without_control(self._definition, self.control_ids), self._where)


class Stream:
    """Text of a growing sequence of ids: `push(id)` gives what is now complete, `flush()` what is left."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = tokenizer.strips_space
        self._ids: list[int] = []  # only where tokens do not spell bytes: the ids since the last word began
        self._shown = ""

    def push(self, index: int) -> str:
        """The text that `index` completes; empty while a character is still in pieces."""
        if not self._tokenizer.spells_bytes:
            return self._grown(index)
        text = self._utf8.decode(self._tokenizer.token_bytes(index))
        if text and self._at_start:
            self._at_start = False
            text = text.removeprefix(" ")
        return text

    @property
    def pending(self) -> bool:
        """Whether the text so far ends within a character."""
        return bool(self._utf8.getstate()[0])

    def fork(self) -> Stream:
        """The same text so far, to be continued otherwise."""
        other = Stream(self._tokenizer)
        other._utf8.setstate(self._utf8.getstate())
        other._at_start, other._ids, other._shown = self._at_start, self._ids, self._shown
        return other

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never completed."""
        return self._utf8.decode(b"", final=True)

    def _grown(self, index: int) -> str:
        # WordPiece joins words with spaces; a piece can only change what the decoder says of it and its neighbour.
        self._ids = [*self._ids, index]
        text = self._tokenizer.decode(self._ids)
        new = text[len(self._shown) :] if text.startswith(self._shown) else ""
        if len(self._ids) > 64:
            self._ids = self._ids[-2:]
            text = self._tokenizer.decode(self._ids)
        self._shown = text
        return new


def well_formed(text: str) -> str:
    """The text with `?` for lone surrogates, which are no characters and which the library does not take."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _text(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""
