"""In-Context RALM (Ram 2023, arXiv 2302.00083): a passage before the text, looked up anew every few tokens.

    p(x_1 … x_n) = Π_j Π_i p(x_{sj+i} | passage(x_{≤ sj}); x_{< sj+i})          s the stride, i = 1 … s

The passage is found with the last ℓ tokens alone. Of several candidates the model itself can choose one, by what it
gives the last tokens under each (zero-shot reranking, section 5.1 there).

What is computed again: a passage's keys and values never, they are kept (`PrefixStore`). The text after another
passage in full: its tokens attend to the passage and stand at other positions, so no key of it stays what it was.
Where the same passage is found again, nothing.

Shapes: R rows (the text after a passage; the text alone), T tokens of the text, K candidates, n tokens that rank them,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openbook.book.embedder import Embedder
from openbook.book.passages import in_place
from openbook.book.retrieve import Hit, find, retrievers
from openbook.book.store import Book
from openbook.errors import Fault
from openbook.lm.cache.beginnings import Beginnings
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.prefixes import Prefix, PrefixStore
from openbook.lm.model import LanguageModel
from openbook.lm.tokenizer import Tokenizer
from openbook.mix.mixing import normalisers
from openbook.mix.prompt import Framing
from openbook.mix.source import Label
from openbook.mix.sources.branches import CLOSED_BOOK, read_before
from openbook.mix.weights import Array

LABEL = Label("retrieved", "passage")
QUERY_TOKENS = {"dense": 64}
"""ℓ where a retriever wants another than 32: the paper's, for dense retrieval."""
CANDIDATES = 32
"""Passages that one look-up may rank: each is a row of the batch, with the whole text after it."""
REMEMBERED = 1_024
"""Look-ups whose passages are remembered: a text may be of any length."""
MOST = 1 << 20
"""Tokens in any of a retrieval's numbers: more than a context has."""


@dataclass(frozen=True)
class Retrieval:
    """When and with what a passage is looked up. The defaults are the paper's.

    Every `stride` tokens (s), with the last `query_tokens` (ℓ; None: 32, or 64 where `by` is dense). Of `rerank`
    candidates the one is taken under which the last `rerank_tokens` are likeliest; 1 takes the first. A passage is read
    no further than `passage_tokens`, a text no further back than `context`.
    """

    stride: int = 4
    query_tokens: int | None = None
    by: str = "bm25"
    rerank: int = 1
    rerank_tokens: int = 16
    passage_tokens: int = 256
    context: int = 1024

    def __post_init__(self) -> None:
        if not isinstance(self.by, str) or self.by not in retrievers():
            raise Fault(f"no retriever is called {self.by!r}; there are: {', '.join(retrievers())}")
        counts = {
            "stride": self.stride,
            "query tokens": self.length,
            "rerank": self.rerank,
            "context": self.context,
            "rerank tokens": self.rerank_tokens,
            "passage tokens": self.passage_tokens,
        }
        for name, value in counts.items():
            # A stored answer says these too, and whoever can write a book can write anything there.
            if type(value) is not int or not 1 <= value <= MOST:
                raise Fault(f"{name} is {value!r}; it must be a whole number from 1 to {MOST}")
        if self.rerank > CANDIDATES:
            raise Fault(f"{self.rerank} passages to rank are too many; at most {CANDIDATES}")

    @property
    def length(self) -> int:
        """ℓ."""
        return QUERY_TOKENS.get(self.by, 32) if self.query_tokens is None else self.query_tokens

    def summary(self) -> dict[str, Any]:
        """What an answer records of it: `Retrieval(**summary)` is it again."""
        return asdict(self)


@dataclass(frozen=True)
class Frame:
    """How a text and a passage are put to the model: `before` gives the tokens before a text for a passage's words
    (none: the closed book) and the most of its tokens that are read.

    `asked` is what every query begins with. `template` are the places in the text that were written by neither a person
    nor the model: they are not looked up, and rank nothing.
    """

    before: Callable[[str, int], list[int]]
    asked: str = ""
    template: range = range(0)


def plain(tokenizer: Tokenizer) -> Frame:
    """A passage, a blank line, the text: after what begins every text."""

    def before(passage: str, most: int) -> list[int]:
        words = tokenizer.encode(passage)[:most]
        return [*opening(tokenizer), *words, *(tokenizer.encode("\n\n") if words else ())]

    return Frame(before)


def asking(framing: Framing, question: str) -> tuple[Frame, list[int]]:
    """A question under its prompt, and the text to go on with: what `Branches` read too, with the same prefixes."""
    suffix = framing.suffix(question)
    # The last token before the question is the same with every passage; it is read with the text, as branches do.
    last = framing.prefix(())[-1:]
    text = [*last, *suffix.tokens]

    def before(passage: str, most: int) -> list[int]:
        return framing.prefix((passage,) if passage else (), most)[:-1]

    return Frame(before, question, range(len(text) - len(suffix.tail), len(text))), text


class Lookup:
    """Passages for the end of a text, and what stands before the text with each; `store` keeps that, `beginnings` what
    texts alone begin with."""

    def __init__(
        self,
        model: LanguageModel,
        book: Book | None,
        encoder: Embedder | None,
        retrieval: Retrieval,
        store: PrefixStore | None = None,
        frame: Frame | None = None,
        beginnings: Beginnings | None = None,
    ) -> None:
        self.model, self.retrieval, self.store, self.beginnings = model, retrieval, store, beginnings
        self.frame = frame or plain(model.tokenizer)
        self.opening = self.frame.before("", 0)
        self._book, self._encoder = book, encoder
        self._found: dict[str, list[Hit]] = {}

    def candidates(self, text: Sequence[int]) -> list[Hit]:
        """The passages for what comes after these tokens, best first; none without a book, or words to look for."""
        retrieval, frame = self.retrieval, self.frame
        written = text[frame.template.stop :][-retrieval.length :]
        query = f"{frame.asked} {self.model.tokenizer.decode(written)}".strip()
        if self._book is None or not self._book.count or not query:
            return []
        if query not in self._found:
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            self._found[query] = find(self._book, query, retrieval.rerank, self._encoder, by=retrieval.by)
        return self._found[query]

    def before(self, hit: Hit) -> list[int]:
        """The tokens before the text with a passage, which is read with its title and section."""
        passage = hit.passage
        words = in_place(passage.title, passage.heading, passage.text)
        return self.frame.before(words, self.retrieval.passage_tokens)

    def ranking(self, length: int) -> list[int]:
        """The places in a text of this length whose tokens rank the candidates, ascending: the last of its own."""
        places = [place for place in range(1, length) if place not in self.frame.template]
        return places[-self.retrieval.rerank_tokens :]

    def prefixes(self, hits: Sequence[Hit]) -> list[Prefix]:
        """Keys and values of what stands before the text with each of these passages: kept, or computed and kept."""
        names, texts = [hit.passage.id for hit in hits], [self.before(hit) for hit in hits]
        found: list[Prefix | None] = self.store.get_all(names, texts) if self.store else [None for _ in hits]
        for i, text in enumerate(texts):
            if found[i] is None:
                found[i] = read_before(self.model.runner, names[i], text, self.store)
        return [prefix for prefix in found if prefix is not None]


def opening(tokenizer: Tokenizer) -> list[int]:
    """What stands before every plain text: a BOS where the model wants one."""
    begins = tokenizer.encode("", special=True)[:1]
    return begins if begins and begins[0] == tokenizer.bos_id else []


class Retrieved:
    """A `Source` of two rows: a text after the passage now in force, and the same text alone (the closed book).

    `in_force` is the place in `used` of the passage that the first row's next distribution comes from; None where none
    was found: then both rows are the plain model, computed once. `used` are the passages that were, in their order.
    `rereads` counts how often the text was read anew; `read` are the tokens of the text alone at first, of which
    `found` were kept.
    """

    def __init__(self, lookup: Lookup, text: Sequence[int], room: int) -> None:
        self.labels: tuple[Label, ...] = (LABEL, CLOSED_BOOK.label)
        self.lookup, self._runner = lookup, lookup.model.runner
        self.used: list[Hit] = []
        self.in_force: int | None = None
        self.rereads = 0
        most = self._room_for_text(room)
        if lookup.frame.asked and len(text) > most:
            raise Fault(f"the question has {len(text)} tokens, of which {most} can be read; ask a shorter one")
        self._text = list(text[-most:])
        self._since, self._room = 0, room
        alone = [*lookup.opening, *self._text]
        if not alone:
            raise Fault("there is no text to go on with; give at least one word")
        # The cache's last row is the text alone.
        self._cache, self._scores_RV, self.found = (lookup.beginnings or Beginnings(0)).start(self._runner, alone, room)
        self.read = len(alone)
        self._look_up()

    def _room_for_text(self, room: int) -> int:
        retrieval, limit = self.lookup.retrieval, self._runner.spec.max_positions
        spare = limit - room - retrieval.passage_tokens - len(self.lookup.opening) - 8  # 8: a blank line
        if spare < 1:
            raise Fault(
                f"{room} tokens after a passage of {retrieval.passage_tokens} do not fit this model's context of "
                f"{limit}; write fewer tokens, or read less of a passage"
            )
        return min(spare, retrieval.context)

    def start(self) -> Tensor:
        return self._two_rows()

    def step(self, token: int) -> Tensor:
        self._text.append(token)
        self._since += 1
        self._room -= 1
        rows = self._cache.batch
        self._scores_RV = self._runner.forward(torch.full((rows, 1), token), self._cache)[:, -1]
        if self._since == self.lookup.retrieval.stride:
            self._look_up()
        return self._two_rows()

    def _two_rows(self) -> Tensor:
        return self._scores_RV if len(self._scores_RV) == 2 else self._scores_RV.expand(2, -1)

    def _look_up(self) -> None:
        """Find the passage for what comes next; where it is another one, read the text anew after it."""
        self._since = 0
        hits = self.lookup.candidates(self._text)
        now = None if self.in_force is None else self.used[self.in_force].passage.id
        if [hit.passage.id for hit in hits] == ([] if now is None else [now]):
            return
        alone, alone_1V = self._cache.prefix(self._cache.batch - 1), self._scores_RV[-1:]
        if not hits:
            self.in_force, self._scores_RV = None, alone_1V
            self._cache = self._runner.cache([alone], self._room)
            return
        cache, scores_KV, log_p_K = read_under(self.lookup, self.lookup.prefixes(hits), self._text)
        best = int(np.argmax(log_p_K))
        self.rereads += 1
        if hits[best].passage.id == now:
            return
        self._use(hits[best])
        self._scores_RV = torch.cat([scores_KV[[best]], alone_1V])
        self._cache = self._runner.cache([cache.prefix(best), alone], self._room)

    def _use(self, hit: Hit) -> None:
        ids = [used.passage.id for used in self.used]
        if hit.passage.id not in ids:
            self.used.append(hit)
            ids.append(hit.passage.id)
        self.in_force = ids.index(hit.passage.id)


def read_under(lookup: Lookup, prefixes: Sequence[Prefix], text: Sequence[int]) -> tuple[Cache, Tensor, Array]:
    """A text read after each of K prefixes: the cache, the scores `[K, V]` of what comes next, and log p `[K]`
    (natural) of the text's last tokens, which ranks the prefixes (Ram 2023, equation 5)."""
    runner = lookup.model.runner
    rows_KT = torch.tensor([list(text)] * len(prefixes))
    ranking = lookup.ranking(len(text)) if len(prefixes) > 1 else []
    cache = runner.cache(prefixes, room=len(text))
    head = min([place - 1 for place in ranking], default=len(text) - 1)
    if head:
        runner.read(rows_KT[:, :head], cache)
    columns = sorted({*(place - 1 - head for place in ranking), len(text) - 1 - head})
    scores_KnV = runner.forward(rows_KT[:, head:], cache, keep=columns)
    log_p_K = last_log_p(scores_KnV[:, : len(ranking)], rows_KT[:, ranking])
    return cache, scores_KnV[:, -1], log_p_K


def last_log_p(scores_KnV: Tensor, next_Kn: Tensor) -> Array:
    """Natural log p `[K]` of each row's n tokens under the scores that foretell them; 0 where n is 0."""
    if not next_Kn.shape[1]:
        return np.zeros(len(next_Kn))
    log_z_Kn = normalisers(scores_KnV.flatten(0, 1)).reshape(next_Kn.shape)
    column_Kn = scores_KnV.gather(-1, next_Kn[..., None].to(scores_KnV.device))[..., 0].double().cpu().numpy()
    log_p_K: Array = (column_Kn - log_z_Kn).sum(1)
    return log_p_K
