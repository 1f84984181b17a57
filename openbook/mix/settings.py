"""How a question is asked. The defaults were fitted on SQuAD's open half (docs/log.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from openbook.errors import Fault
from openbook.lm.decoding.beam import Beams
from openbook.lm.decoding.constrain import Constraint
from openbook.lm.decoding.generate import check_together
from openbook.lm.decoding.sampling import Sampling
from openbook.mix.certificate import check_robust
from openbook.mix.diverse import MOST as MOST_ANSWERS
from openbook.mix.diverse import SPARE
from openbook.mix.mixture import Weights
from openbook.mix.paths import MOST_HOPS, path_kinds
from openbook.mix.prompt import Prompt
from openbook.mix.rerank import Rerank
from openbook.mix.share import LambdaKnn, check_lambda
from openbook.mix.weights import log_prior

MOST_LIKELIEST = 20
MOST_ROWS = 256
"""Rows that one step may run, a beam times a source: each holds a passage's keys."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides an answer besides the book, the model and the question.

    `retrieved` passages are searched and read with the question; the best `passages` of them are kept. Under a `rerank`
    its pool is searched instead, and the best `passages` are read. `paths` joins passages in one branch
    (`openbook.mix.paths`), up to `hops` of them; the best `passages` paths are kept. `persistence`
    is τ: 0 Token, 1 Sequence. `beta`: how much the question's own likelihood under a passage refines the prior.
    `closed_share`: the model's own memory's share of the prior. `cap`: no source weighs more. `margin`: the bits by
    which the best passage must make the question likelier than the model alone does, else the answer is withheld;
    None never withholds. Tokens are chosen by `sampling`, or searched for by `beams`, up to a `stop` string; of more
    than one, `answers` differ from each other (`openbook.mix.diverse`). Under a `constraint` an answer satisfies it, or
    is a fault. `speculate`: read ahead what is being copied (`openbook.mix.speculation`); None: where that cannot
    change a bit of an answer (`Runner.batch_invariant`).
    `cut_repeats`: an answer ends where it goes round in a circle, and says nothing twice over
    (`openbook.lm.decoding.repeats`); one under a constraint is left alone. `robust`: an answer withstands so many bad
    passages, or ends before the first word that does not (`openbook.mix.certificate`); `robustly` sets what that needs.
    `lambda_knn`: the share of neighbours in the book's datastore, fixed, or "auto": by their distances
    (`openbook.mix.sources.neighbours`); 0: none are looked for. `likeliest`: so many of the tokens that could have come
    are told with each that came.
    """

    passages: int = 5
    retrieved: int = 10
    rerank: Rerank | None = None
    paths: str = "single"
    hops: int = 2
    persistence: float = 0.5
    prior_temperature: float = 0.06
    beta: float = 0.5
    closed_share: float = 0.05
    cap: float = 0.98
    margin: float | None = 5.0
    max_tokens: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    beams: Beams | None = None
    answers: int = 1
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    speculate: bool | None = None
    cut_repeats: bool = True
    robust: int | None = None
    lambda_knn: LambdaKnn = 0.0
    likeliest: int = 0
    prompt: Prompt = field(default_factory=Prompt)

    def __post_init__(self) -> None:
        if self.passages < 1:
            raise Fault(f"passages is {self.passages}; at least 1 is needed to answer from a book")
        if self.passages > 64 or self.retrieved > 256:
            raise Fault(f"{self.passages} of {self.retrieved} passages are too many; at most 64 of 256")
        if self.paths not in path_kinds():
            raise Fault(f"no paths are called {self.paths!r}; there are: {', '.join(path_kinds())}")
        if not 2 <= self.hops <= MOST_HOPS:
            raise Fault(f"a path of {self.hops} passages; it must be from 2 to {MOST_HOPS}")
        if not 1 <= self.max_tokens <= 4096:
            raise Fault(f"max tokens is {self.max_tokens}; it must be from 1 to 4096")
        if not self.beta >= 0 or not self.prior_temperature > 0:
            raise Fault(f"beta is {self.beta} and the prior's temperature {self.prior_temperature}; 0 or more, above 0")
        if self.beams is not None and self.beams.width * (self.passages + 1) > MOST_ROWS:
            rows = f"{self.beams.width} beams of {self.passages} passages and the closed book"
            raise Fault(f"{rows} are more than {MOST_ROWS} rows to run at once; ask with fewer of either")
        self._check_answers()
        if self.speculate and self.beams is not None:
            raise Fault("beams do not read ahead; ask to speculate or for beams, not both")
        if not 0 <= self.likeliest <= MOST_LIKELIEST:
            raise Fault(f"{self.likeliest} likeliest tokens are asked for; it must be from 0 to {MOST_LIKELIEST}")
        if self.likeliest and (self.beams is not None or self.answers > 1):
            raise Fault("likeliest tokens are told of one text, written token by token; leave out beams and answers")
        check_robust(self.robust, self.passages)
        if self.robust is not None and (self.persistence or self.beta or self.beams or self.sampling.temperature):
            raise Fault("a robust answer needs persistence 0, beta 0, one beam and no temperature; leave those out")
        if self.robust is not None and (self.constraint or self.sampling.repetition_penalty != 1):
            raise Fault("a robust answer is what the passages say; no constraint or repetition penalty can be held to")
        if self.robust is not None and self.paths != "single":
            raise Fault("a bad passage could be in several paths at once; a robust answer has one passage a branch")
        check_lambda(self.lambda_knn)
        if self.lambda_knn and self.beams is not None:
            raise Fault("neighbours do not go along with beams; ask with lambda_knn 0 or with one beam")
        if self.lambda_knn and self.robust is not None:
            raise Fault(
                "no certificate covers neighbours, which bad passages may have too; leave lambda_knn or robust out"
            )
        check_together(self.sampling, self.beams, self.stop, self.constraint)
        # What the weights refuse is refused here, before any work is done.
        Weights(np.zeros(1), self.persistence, self.cap)
        log_prior(np.zeros(1), self.closed_share)
        if self.margin is not None and math.isnan(self.margin):
            raise Fault("the margin is not a number; give bits, or None to answer always")

    def robustly(self, bad: int) -> Settings:
        """The same, under equal votes that withstand so many bad passages: τ = 0 and β = 0."""
        return replace(self, robust=bad, persistence=0.0, beta=0.0, cap=1.0)

    @property
    def certifiable(self) -> bool:
        """Whether a bad passage has the weight that retrieval gave it and no more: it stands in one branch, and neither
        the question's likelihood, nor a cross-encoder, nor neighbours speak for it."""
        alone = self.paths == "single" and (self.rerank is None or self.rerank.by == "likelihood")
        return self.beta == 0 and alone and not self.lambda_knn

    def _check_answers(self) -> None:
        """Several answers are groups of a search of their own."""
        if not 1 <= self.answers <= MOST_ANSWERS:
            raise Fault(f"{self.answers} answers; it must be from 1 to {MOST_ANSWERS}")
        if self.answers == 1:
            return
        others: dict[str, object] = {
            "beams": self.beams,
            "a temperature": self.sampling.temperature or None,
            "robust": self.robust,
        }
        others["neighbours"] = self.lambda_knn or None
        if asked := next((name for name, value in others.items() if value is not None), None):
            raise Fault(f"several answers are searched for, greedily; they cannot be had with {asked}: leave out one")
        rows = (self.answers + SPARE) * (self.passages + 1)
        if rows > MOST_ROWS:
            raise Fault(f"{self.answers} answers take {rows} rows, more than {MOST_ROWS}; ask with fewer passages")

    @property
    def pool(self) -> int:
        """How many passages are searched: never fewer than are kept."""
        return max(self.retrieved if self.rerank is None else self.rerank.pool, self.passages)

    def summary(self) -> dict[str, object]:
        """What an answer records of its settings, plain values."""
        return {
            "persistence": self.persistence,
            "passages": self.passages,
            "retrieved": self.retrieved,
            "rerank": None if self.rerank is None else self.rerank.summary(),
            "paths": self.paths,
            "answers": self.answers,
            "hops": self.hops if self.paths in ("sets", "graph") else None,
            "lambda_knn": self.lambda_knn,
            "prior_temperature": self.prior_temperature,
            "beta": self.beta,
            "closed_share": self.closed_share,
            "cap": self.cap,
            "margin": self.margin,
            "max_tokens": self.max_tokens,
            "temperature": self.sampling.temperature,
            "top_k": self.sampling.top_k,
            "top_p": self.sampling.top_p,
            "min_p": self.sampling.min_p,
            "repetition_penalty": self.sampling.repetition_penalty,
            "beams": 1 if self.beams is None else self.beams.width,
            "length_penalty": None if self.beams is None else self.beams.length_penalty,
            "early_stopping": None if self.beams is None else self.beams.early_stopping,
            "stop": list(self.stop),
            "constraint": None if self.constraint is None else {self.constraint.kind: self.constraint.text},
            "speculate": self.speculate,
            "cut_repeats": self.cut_repeats,
            "robust": self.robust,
            **({"likeliest": self.likeliest} if self.likeliest else {}),
            **self.prompt.summary(),
        }
