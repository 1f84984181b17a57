"""How a question is asked. The defaults were fitted on SQuAD's open half (docs/log.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from openbook.errors import Fault
from openbook.mix.decode import Sampling
from openbook.mix.mixture import Weights
from openbook.mix.prompt import Prompt
from openbook.mix.weights import log_prior


@dataclass(frozen=True)
class Settings:
    """Everything that decides an answer besides the book, the model and the question.

    `retrieved` passages are searched and read with the question; the best `passages` of them are kept. `persistence`
    is τ: 0 Token, 1 Sequence. `beta`: how much the question's own likelihood under a passage refines the prior.
    `closed_share`: the model's own memory's share of the prior. `cap`: no source weighs more. `margin`: the bits by
    which the best passage must make the question likelier than the model alone does, else the answer is withheld;
    None never withholds.
    """

    passages: int = 5
    retrieved: int = 10
    persistence: float = 0.5
    prior_temperature: float = 0.06
    beta: float = 0.5
    closed_share: float = 0.05
    cap: float = 0.98
    margin: float | None = 5.0
    max_tokens: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    prompt: Prompt = field(default_factory=Prompt)

    def __post_init__(self) -> None:
        if self.passages < 1:
            raise Fault(f"passages is {self.passages}; at least 1 is needed to answer from a book")
        if self.passages > 64 or self.retrieved > 256:
            raise Fault(f"{self.passages} of {self.retrieved} passages are too many; at most 64 of 256")
        if not 1 <= self.max_tokens <= 4096:
            raise Fault(f"max tokens is {self.max_tokens}; it must be from 1 to 4096")
        if not self.beta >= 0 or not self.prior_temperature > 0:
            raise Fault(f"beta is {self.beta} and the prior's temperature {self.prior_temperature}; 0 or more, above 0")
        # What the weights refuse is refused here, before any work is done.
        Weights(np.zeros(1), self.persistence, self.cap)
        log_prior(np.zeros(1), self.closed_share)
        if self.margin is not None and math.isnan(self.margin):
            raise Fault("the margin is not a number; give bits, or None to answer always")

    @property
    def pool(self) -> int:
        """How many passages are searched: never fewer than are kept."""
        return max(self.retrieved, self.passages)

    def summary(self) -> dict[str, object]:
        """What an answer records of its settings, plain values."""
        return {
            "persistence": self.persistence,
            "passages": self.passages,
            "retrieved": self.retrieved,
            "lambda_knn": 0.0,
            "prior_temperature": self.prior_temperature,
            "beta": self.beta,
            "closed_share": self.closed_share,
            "cap": self.cap,
            "margin": self.margin,
            "max_tokens": self.max_tokens,
            "temperature": self.sampling.temperature,
            "top_k": self.sampling.top_k,
            "top_p": self.sampling.top_p,
        }
