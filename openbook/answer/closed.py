"""The model alone: what it says of a question when no passage may speak. Beside an answer from a book it shows what
the book was good for; by itself it is what the model remembers, and nothing in the book stands for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openbook.book.retrieve import Hit
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.reading import Reader, Reading
from openbook.mix.sources.branches import CLOSED_BOOK


@dataclass
class Closed(Reader):
    """A reader whose passages are found and then do not speak: one source, the closed book."""

    def begin(self, question: str, hits: Sequence[Hit]) -> Reading:
        """Stand ready to write with the closed book alone."""
        source = self.branches(question, [CLOSED_BOOK])
        return Reading((), np.zeros(1), Mixture([source], Weights(np.zeros(1))), 0.0, source.tally)
