"""A book, a model and a question meet: who is kept, how much each is believed, how much they have to do with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from openbook.book.embedder import Embedder
from openbook.book.neighbours import Neighbours, open_neighbours
from openbook.book.passages import in_place
from openbook.book.retrieve import Hit, find, with_prior
from openbook.book.store import Book
from openbook.errors import Fault
from openbook.lm.cache.plan import plan
from openbook.lm.cache.prefixes import Make, PrefixStore
from openbook.lm.model import LanguageModel
from openbook.mix.certificate import equal_votes
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.paths import Path, join, log_prior_of, views
from openbook.mix.prompt import Framing
from openbook.mix.rerank import rerank
from openbook.mix.settings import Settings
from openbook.mix.source import Label, Source, Tap
from openbook.mix.sources.branches import CLOSED_BOOK, Branch, Branches, Progress, Tally
from openbook.mix.sources.neighbours import Knn, NeighboursSource
from openbook.mix.speculation import Speculation
from openbook.mix.weights import Array, log_prior, normalise, refine

if TYPE_CHECKING:
    from openbook.lm.cross_encoder import CrossEncoder

MEMORY_BYTES, DISK_BYTES = 2 << 30, 8 << 30
"""Budgets of the passage cache; of memory no more than a quarter of the machine's is taken."""
ARITHMETIC = 3
"""Raised when keys or values of the same text under the same weights come out different: what was kept is stale."""


@dataclass(frozen=True)
class Believed:
    """A question read once under every hit and once under the closed book: S hits, natural logs.

    `asked_S` is log p(question | hit), `asked_closed` the same without any; `prior_S` is retrieval's. `said_lift_S`:
    how much likelier each hit makes what was said before the question, where anything was.
    """

    prior_S: Array
    asked_S: Array
    asked_closed: float
    settings: Settings
    said_lift_S: Array | None = None

    @cached_property
    def refined_S(self) -> Array:
        """`π_s · p(x|z_s)^β`, normalised, as logs."""
        return refine(self.prior_S, self.asked_S, self.settings.beta)

    @cached_property
    def kept(self) -> list[int]:
        """The hits that may speak, the most believed first."""
        order: list[int] = np.argsort(-self.refined_S, kind="stable").tolist()
        return order[: self.settings.passages]

    def weights(self, tau: float | None = None) -> Weights:
        """Of the kept hits and, last, the closed book."""
        settings = self.settings
        if settings.robust is not None:
            lift_bits_S = (self.asked_S[self.kept] - self.asked_closed) / np.log(2)
            return equal_votes(lift_bits_S, settings.margin, settings.closed_share, settings.passages)
        prior = log_prior(self.refined_S[self.kept], self.settings.closed_share)
        return Weights(prior, self.settings.persistence if tau is None else tau, self.settings.cap)

    @property
    def lift_bits(self) -> float:
        """How much likelier a kept hit makes the question, at best, than the model alone; or the question and what was
        said before: one like "And when?" says nothing by itself."""
        lift_S = self.asked_S[self.kept] - self.asked_closed
        whole_S = lift_S if self.said_lift_S is None else lift_S + self.said_lift_S[self.kept]
        return float(max(lift_S.max(), whole_S.max()) / np.log(2))


@dataclass(frozen=True)
class Reading:
    """The kept paths best first, their share of the prior (the closed book's last), the mixture to write with.

    A path is the hits that stand before the question in one branch: mostly one.
    `tally` counts what the writing takes; `speculation` guesses what may be read ahead, if anything is to be;
    `neighbours` is the source of that kind, if there is one.
    """

    paths: tuple[Path, ...]
    log_retrieved_S: Array
    mixture: Mixture
    lift_bits: float
    tally: Tally
    speculation: Speculation | None = None
    neighbours: NeighboursSource | None = None

    @property
    def hits(self) -> tuple[Hit, ...]:
        """Each path's most believed passage; of one passage, that."""
        return tuple(max(path, key=lambda hit: hit.prior) for path in self.paths)


@dataclass
class Reader:
    """A book, a model and an encoder held ready for many questions.

    `kept` holds the keys and values of passages, in memory and in the book's folder `kv/`, where a passage's go when
    the passage goes. `progress` is told of passages that are not kept while they are read.
    """

    book: Book
    model: LanguageModel
    encoder: Embedder | None = None
    settings: Settings = field(default_factory=Settings)
    kept: PrefixStore | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.kept is None:
            self.kept = passage_cache(self.book, self.model)
        if self.encoder is None and self.book.count:
            self.encoder = self.book.encoder()

    def find(self, question: str) -> list[Hit]:
        """The passages to read the question under, best first, with retrieval's prior."""
        settings = self.settings
        by = "graph" if settings.paths == "graph" else "fused"
        pool, encoder, temperature = settings.pool, self.encoder, settings.prior_temperature
        search = partial(find, self.book, k=pool, encoder=encoder, by=by, temperature=temperature)
        hits = search(question)
        if not settings.prompt.turns:
            return hits
        # A question may only make sense after the one before it: what is found for both is looked at as well.
        both = f"{settings.prompt.turns[-1].question} {question}"
        best: dict[str, Hit] = {}
        for hit in [*hits, *search(both)]:
            best[hit.passage.id] = max(hit, best.get(hit.passage.id, hit), key=lambda each: each.score)
        ordered = sorted(best.values(), key=lambda hit: (-hit.score, hit.passage.id))[: settings.pool]
        return with_prior(ordered, settings.prior_temperature)

    @cached_property
    def cross_encoder(self) -> CrossEncoder:
        """The cross-encoder of the settings' folder, loaded when it is first asked for."""
        from openbook.lm.cross_encoder import load_cross_encoder

        chosen = self.settings.rerank
        if chosen is None or chosen.model is None:
            raise Fault("no cross-encoder was given; name its folder: --reranker FOLDER")
        return load_cross_encoder(chosen.model)

    def paths(self, question: str, hits: Sequence[Hit]) -> list[Path]:
        """What stands in front of the question, branch by branch: the hits, reranked and joined as the settings say."""
        settings = self.settings
        return join(self.book, rerank(self, question, hits, settings.passages), settings.paths, settings.hops)

    def read(self, question: str, hits: Sequence[Hit]) -> tuple[Branches, Believed]:
        """Run the question under every hit and, last, the closed book, in one batch."""
        return self.read_paths(question, [(hit,) for hit in hits])

    def read_paths(self, question: str, paths: Sequence[Path], tap: Tap | None = None) -> tuple[Branches, Believed]:
        """Run the question under every path and, last, the closed book, in one batch."""
        branches = [branch_of(Label(f"p{i}", "passage"), path) for i, path in enumerate(paths)]
        source = self.branches(question, [*branches, CLOSED_BOOK], tap=tap)
        *asked, closed = source.question_log_p_S.tolist()
        said_S = source.said_log_p_S[:-1] - source.said_log_p_S[-1] if self.settings.prompt.turns else None
        asked_S = views(paths, np.array(asked))
        return source, Believed(log_prior_of(paths), asked_S, closed, self.settings, said_S)

    def branches(
        self, question: str, branches: Sequence[Branch], room: int | None = None, tap: Tap | None = None
    ) -> Branches:
        """These branches with the question read, ready to write; `room`: so many tokens, else as the settings say."""
        framing = Framing(self.model.tokenizer, self.settings.prompt)
        room = self.settings.max_tokens if room is None else room
        told = {"store": self.kept, "progress": self.progress, "tap": tap}
        return Branches(self.model, framing, branches, question, room=room, **told)  # type: ignore[arg-type]

    def begin(self, question: str, hits: Sequence[Hit]) -> Reading:
        """Read the question, keep the best passages beside the closed book, and stand ready to write."""
        paths = self.paths(question, hits)
        tap = Tap() if self.settings.lambda_knn else None
        source, believed = self.read_paths(question, paths, tap)
        kept = believed.kept
        labels = [Label(f"p{rank}", "passage") for rank in range(1, len(kept) + 1)]
        source.keep([*kept, len(paths)], labels=[*labels, CLOSED_BOOK.label])
        retrieved = log_prior(normalise(believed.prior_S[kept]), self.settings.closed_share)
        weights, sources, knn = believed.weights(), list[Source]([source]), None
        if tap is not None:  # neighbours have no prior: they say at each step what share they take
            knn = NeighboursSource(self.neighbours, tap, self.model.spec.vocabulary, Knn(self.settings.lambda_knn))
            sources.append(knn)
            retrieved = np.append(retrieved, -np.inf)
            weights = replace(weights, log_prior_S=np.append(weights.log_prior_S, -np.inf))
        mixture = Mixture(sources, weights)
        runner, guesses = self.model.runner, None
        if self.speculates:
            spelling = self.model.tokenizer.token_bytes
            guesses = Speculation(source.texts, spelling, beside=lambda: int(getattr(runner, "beside", 0)))
        return Reading(
            tuple(paths[i] for i in kept), retrieved, mixture, believed.lift_bits, source.tally, guesses, knn
        )

    @cached_property
    def neighbours(self) -> Neighbours:
        """What the model remembers of this version of the book (`openbook add --neighbours`)."""
        return open_neighbours(self.book, self.model.fingerprint)

    @property
    def speculates(self) -> bool:
        """Whether answers are written with reading ahead: if not said, where it cannot change a bit of them."""
        if self.settings.speculate is None:
            return self.model.runner.batch_invariant and self.settings.beams is None and self.settings.answers == 1
        return self.settings.speculate


def branch_of(label: Label, path: Sequence[Hit]) -> Branch:
    """The branch of a path. The keys of one passage are kept under its id; those of several nowhere: who removes a
    passage from the book must find all that was made of it by its name."""
    name = path[0].passage.id if len(path) == 1 else ""
    return Branch(label, name, tuple(passage_text(hit) for hit in path))


def passage_text(hit: Hit) -> str:
    """A passage as it is put before the question: its document's title and section, then its text."""
    return in_place(hit.passage.title, hit.passage.heading, hit.passage.text)


def passage_cache(book: Book, model: LanguageModel, memory: int | None = None, disk: int | None = None) -> PrefixStore:
    """Where the keys and values of a book's passages are kept: at most so many bytes in memory, and below the book."""
    memory = memory_budget() if memory is None else memory
    return PrefixStore(memory, book.path / "kv", DISK_BYTES if disk is None else disk, make_of(model))


def memory_budget() -> int:
    """Bytes that passage caches may have of this machine's memory, unless somebody says otherwise."""
    return min(MEMORY_BYTES, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)


def make_of(model: LanguageModel) -> Make:
    """What decides the bits of this model's keys and values, besides the tokens.

    A prompt, a template and a tokenizer decide the tokens, so they need no part in it. A backend that does not compute
    with torch names what its bits depend on in `runner.arithmetic`.
    """
    runner = model.runner
    arithmetic = getattr(runner, "arithmetic", None)
    if arithmetic is None:
        processor = torch.backends.cpu.get_cpu_capability() if runner.device.type == "cpu" else runner.device.type
        arithmetic = f"torch-{torch.__version__}-{processor}"
    name = f"{model.fingerprint}-{arithmetic}-{ARITHMETIC}"
    return Make(name, plan(runner.spec), runner.caching.codec, runner.dtype)
