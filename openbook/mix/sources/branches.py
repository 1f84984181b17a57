"""The model with a passage before the question, once for every passage and once for none: rows of one batch.

Shapes: S branches, N hypotheses, R = N·S rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.backends.runner import Runner
from openbook.lm.cache.prefixes import Prefix, PrefixStore
from openbook.lm.model import LanguageModel
from openbook.mix.mixing import normalisers
from openbook.mix.prompt import PASSAGE_TOKENS, Framing, Suffix
from openbook.mix.source import Label, Tap
from openbook.mix.weights import Array

Progress = Callable[[int, int, str], None]
"""Told how many are done, of how many, and of what."""
LOGIT_NUMBERS = 1 << 26
"""Logits held at once while a question is read: 256 MiB in fp32."""
LEAST_PASSAGE = 16
"""Tokens of a passage below which a question is refused rather than read with less."""


@dataclass(frozen=True)
class Branch:
    """One row: who it is, the name its keys are kept under (none: nowhere), the passages in front of the question.

    Without a passage it is the closed book.
    """

    label: Label
    name: str
    passages: tuple[str, ...] = ()


@dataclass
class Tally:
    """What writing took: forwards of the model, tokens read ahead, how many of those were then written; and before
    it, texts before the question whose keys had to be computed."""

    steps: int = 0
    proposed: int = 0
    accepted: int = 0
    prefilled: int = 0


CLOSED_BOOK = Branch(Label("closed", "closed_book"), "closed")


def read_before(runner: Runner, name: str, text: Sequence[int], store: PrefixStore | None) -> Prefix:
    """A text's keys and values, computed and kept under its name, if it has one; by one thread for all that want it."""
    if store is None or not name:
        return runner.prefill(text)
    return store.made(name, text, lambda: runner.prefill(text))


class Branches:
    """A `Source` of S branches over one model, run in one batched forward a step.

    `question_log_p_S` is log p(question | branch), natural: the prefill of the question yields it at no extra cost.
    `said_log_p_S` is the same of what was said before the question.
    `progress` is told of passages that are not in the store while they are read. `texts` are the tokens that a branch
    has read up to where the answer begins. What is expected after a token is read ahead in its forward, and taken back
    if it does not come (`openbook.mix.speculation`). `tap` is told what the closed book's branch read last.
    """

    def __init__(
        self,
        model: LanguageModel,
        framing: Framing,
        branches: Sequence[Branch],
        question: str,
        *,
        room: int,
        store: PrefixStore | None = None,
        progress: Progress | None = None,
        tap: Tap | None = None,
    ) -> None:
        self._tap = tap
        self.labels = tuple(branch.label for branch in branches)
        self._runner = model.runner
        suffix = framing.suffix(question)
        spare = self._spare(len(framing.prefix(())), suffix, room)
        texts = [framing.prefix(b.passages, min(spare, PASSAGE_TOKENS * len(b.passages))) for b in branches]
        # The last token before the question is run again with it: its output predicts the question's first token.
        self.tally = Tally()
        names, before = [branch.name for branch in branches], [text[:-1] for text in texts]
        prefixes = self._prefixes(names, before, store, progress)
        rows = [[text[-1], *suffix.tokens] for text in texts]
        self.texts = [(*text, *suffix.tokens) for text in texts]
        self._room = room
        self._expected: tuple[int, ...] = ()
        self._ahead: deque[tuple[int, Tensor, Tensor | None]] = deque()
        self._cache = self._runner.cache(prefixes, room=len(rows[0]) + room)
        said, rows_ST = len(suffix.before), torch.tensor(rows)
        self.said_log_p_S = np.zeros(len(rows))
        if said:
            self.said_log_p_S, _ = self._ask(rows_ST[:, :said], said - 1)
        self.question_log_p_S, self._first_SV = self._ask(rows_ST[:, said:], len(suffix.question))

    def _ask(self, rows_ST: Tensor, asked: int) -> tuple[Array, Tensor]:
        """Run every row's question and template tail: log p of the question's tokens, scores of what may come next.

        Logits are made of the columns that foretell a token of the question, and of the last; in chunks, so that those
        of a long question never stand in memory all at once.
        """
        count, length = rows_ST.shape
        log_p_S = np.zeros(count)
        chunk = max(1, LOGIT_NUMBERS // (count * self._runner.spec.vocabulary))
        for start in range(0, max(asked, 1), chunk):
            predicted = min(chunk, asked - start)  # columns here that foretell a token of the question
            last = start + chunk >= asked
            stop = length if last else start + chunk
            columns = sorted({*range(predicted), *([length - 1 - start] if last else [])})
            scores_StV, states_TM = self._forward(rows_ST[:, start:stop], columns)
            log_z_St = normalisers(scores_StV.flatten(0, 1)).reshape(count, len(columns))
            if predicted > 0:
                next_St1 = rows_ST[:, start + 1 : start + 1 + predicted, None].to(scores_StV.device)
                asked_St = scores_StV[:, :predicted].gather(-1, next_St1)[..., 0].double().cpu().numpy()
                log_p_S += (asked_St - log_z_St[:, :predicted]).sum(1)
        first_SV = scores_StV[:, -1]
        self._tell(states_TM, -1)
        if not (np.isfinite(log_p_S).all() and np.isfinite(log_z_St).all()):
            raise Fault("the model's numbers are not finite; its file is damaged: fetch or convert it again")
        return log_p_S, first_SV

    def _spare(self, without: int, suffix: Suffix, room: int) -> int:
        """Tokens of the context that are left for passages."""
        asked, limit = len(suffix.before) + len(suffix.question), self._runner.spec.max_positions
        spare = limit - without - len(suffix) - room
        if spare < LEAST_PASSAGE:
            said = ", with what was said before it," if suffix.before else ""
            raise Fault(
                f"the question{said} has {asked} tokens and leaves no room for a passage and an answer of {room}; "
                f"this model's context is {limit}: ask a shorter question"
            )
        return spare

    def _prefixes(
        self, names: Sequence[str], texts: Sequence[list[int]], store: PrefixStore | None, progress: Progress | None
    ) -> list[Prefix | None]:
        """Each text's keys and values: from the store, else computed and kept there.

        One text at a time: in bf16 the sums of a batch depend on its other members, and an answer must not depend on
        which passages happened to be kept. A passage is long enough to keep the processor busy by itself.
        """
        found: list[Prefix | None] = [None for _ in texts]
        if store and (named := [i for i, name in enumerate(names) if name]):
            kept = store.get_all([names[i] for i in named], [texts[i] for i in named])
            for i, prefix in zip(named, kept, strict=True):
                found[i] = prefix
        missing = [i for i, text in enumerate(texts) if found[i] is None and text]
        self.tally.prefilled += len(missing)
        for done, i in enumerate(missing):
            if progress is not None:
                progress(done, len(missing), "passages read")
            found[i] = read_before(self._runner, names[i], texts[i], store)
        if missing and progress is not None:
            progress(len(missing), len(missing), "passages read")
        return found

    def keep(self, rows: Sequence[int], labels: Sequence[Label] | None = None) -> None:
        """Go on with these branches only, in this order, under new labels if given."""
        self._take_back()
        self._cache.select(rows)
        self.texts = [self.texts[row] for row in rows]
        self.labels = tuple(labels or (self.labels[row] for row in rows))
        self.question_log_p_S, self.said_log_p_S = self.question_log_p_S[list(rows)], self.said_log_p_S[list(rows)]
        self._first_SV = self._first_SV[list(rows)]

    def start(self) -> Tensor:
        return self._first_SV

    def step(self, token: int) -> Tensor:
        expected, self._expected = self._expected, ()
        if self._ahead and self._ahead[0][0] == token:
            self.tally.accepted += 1
            _, scores_SV, state_1M = self._ahead.popleft()
            self._tell(state_1M, 0)
            return scores_SV
        self._take_back()
        while expected and (1 + len(expected) > self._room or self._cache.evicts(1 + len(expected))):
            expected = expected[:-1]
        scores_SnV, states_nM = self._read([[token, *expected]] * len(self.labels))
        self._tell(states_nM, 0)
        self.tally.proposed += len(expected)
        for i, next in enumerate(expected, 1):
            self._ahead.append((next, scores_SnV[:, i], None if states_nM is None else states_nM[i : i + 1]))
        return scores_SnV[:, 0]

    def expect(self, tokens: Sequence[int]) -> None:
        """See `openbook.mix.source.Expecting`."""
        self._expected = tuple(tokens)

    def _read(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Scores `[S, n, V]` after each of every row's n tokens, in one forward; and what is tapped of it."""
        self._room -= len(rows[0])
        self.tally.steps += 1
        return self._forward(torch.tensor(rows, dtype=torch.long), slice(None))

    def _forward(self, tokens_ST: Tensor, keep: slice | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Scores of the columns in `keep`; and of all, what the closed book's last feed-forward read `[T, M]`."""
        if self._tap is None:
            return self._runner.forward(tokens_ST, self._cache, keep=keep), None
        states_STM = torch.zeros(*tokens_ST.shape, self._runner.spec.width, device=self._runner.device)
        scores_StV = self._runner.forward(tokens_ST, self._cache, keep=keep, tap_BTM=states_STM)
        return scores_StV, states_STM[[label.kind for label in self.labels].index("closed_book")]

    def _tell(self, states_TM: Tensor | None, column: int) -> None:
        if self._tap is not None and states_TM is not None:
            self._tap.state_M = states_TM[column]

    def _take_back(self) -> None:
        """Forget what was read ahead and did not come."""
        if self._ahead:
            self._cache.retract(len(self._ahead))
            self._room += len(self._ahead)
            self._ahead.clear()

    def read_given(self, tokens: Sequence[int]) -> Array:
        """Natural log-probabilities `[S, T]` of T tokens that others wrote, appended to every row: teacher-forced."""
        rows_ST = torch.tensor([list(tokens)] * len(self.labels), dtype=torch.long)
        log_p_ST = np.zeros(rows_ST.shape)
        scores_S1V = self._first_SV[:, None]
        chunk = max(1, LOGIT_NUMBERS // (len(self.labels) * self._runner.spec.vocabulary))
        for start in range(0, len(tokens), chunk):
            here_St = rows_ST[:, start : start + chunk]
            scores_StV = self._read(here_St.tolist())[0]
            before_StV = torch.cat([scores_S1V, scores_StV[:, :-1]], dim=1)
            log_z_St = normalisers(before_StV.flatten(0, 1)).reshape(here_St.shape)
            said_St = before_StV.gather(-1, here_St[..., None].to(before_StV.device))[..., 0].double().cpu().numpy()
            log_p_ST[:, start : start + chunk] = said_St - log_z_St
            scores_S1V = scores_StV[:, -1:]
        return log_p_ST

    def step_each(self, tokens: Sequence[int]) -> Tensor:
        """As `step`, with a token of its own for every row: rows may belong to different mixtures."""
        self._take_back()
        return self._read([[token] for token in tokens])[0][:, 0]

    def step_beams(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """`[N, S, V]` of N hypotheses (`openbook.mix.beam.Forking`): each has S rows, which all read its token."""
        branches = range(len(self.labels))
        rows = [parent * len(branches) + branch for parent in parents for branch in branches]
        self._take_back()
        if rows != list(range(len(self._cache.next_positions_B))):
            self._cache.select(rows)
        scores_RV = self.step_each([token for token in tokens for _ in branches])
        return scores_RV.reshape(len(tokens), len(branches), -1)
