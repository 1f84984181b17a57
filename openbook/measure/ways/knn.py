"""kNN-LM (Khandelwal 2020): the model mixed with the book's neighbours, λ by their distances or fixed.

`knn-auto` adapts λ to the distances, `knn-0.25` is the paper's number. The book needs a datastore of the same model
(`openbook add --neighbours`).

Shapes: T predicted tokens of a window, M width, k neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from openbook.book.neighbours import Neighbours, open_neighbours
from openbook.errors import Fault
from openbook.measure.lm import Subject, Window, lm_way
from openbook.mix.mixing import normalisers
from openbook.mix.share import LambdaKnn
from openbook.mix.sources.neighbours import Knn, log_p_of
from openbook.mix.weights import Array

FIXED = (0.1, 0.25, 0.5)


class Foretold(NamedTuple):
    """Natural log p of a window's tokens under the model and under the neighbours (−∞: none has it), and λ_t; the
    nearest distance in the keys' total variance."""

    log_p_T: Array
    log_p_knn_T: Array
    share_T: Array
    nearest_T: Array

    def mixed(self, share_T: Array | float) -> Array:
        """log p under the mixture with this λ."""
        with np.errstate(divide="ignore"):
            mixed: Array = np.logaddexp(np.log1p(-share_T) + self.log_p_T, np.log(share_T) + self.log_p_knn_T)
        return mixed


def foretell(subject: Subject, windows: Sequence[Window], neighbours: Neighbours, knn: Knn) -> Iterator[Foretold]:
    """Each window by one forward, which gives the logits and the keys, and one search for all its tokens."""
    for window in windows:
        read = torch.tensor([[*subject.opening, *window.tokens[:-1]]])
        columns = range(read.shape[1] - window.count, read.shape[1])
        tap_1TM = torch.zeros(*read.shape, subject.model.spec.width, device=subject.runner.device)
        logits_TV = subject.runner.forward(read, keep=list(columns), tap_BTM=tap_1TM)[0]
        wanted_T = torch.tensor(window.tokens[-window.count :], device=logits_TV.device)
        said_T = logits_TV.gather(1, wanted_T[:, None])[:, 0].double().cpu().numpy()
        found = neighbours.search(tap_1TM[0, columns.start :].cpu().numpy(), knn.k)
        log_p_Tk = knn.log_p(found, neighbours.variance)
        log_p_knn_T = log_p_of(found, log_p_Tk, wanted_T.cpu().numpy())
        nearest_T = found.distances_Qk[:, 0].astype(np.float64) / max(neighbours.variance, 1e-30)
        share_T = knn.shares(found, log_p_Tk, neighbours.variance)
        yield Foretold(said_T - normalisers(logits_TV), log_p_knn_T, share_T, nearest_T)


def mixed(subject: Subject, windows: Sequence[Window], *, share: LambdaKnn) -> Iterator[Array]:
    """A way: `λ_t p_kNN + (1 − λ_t) p_LM`."""
    if subject.book is None:
        raise Fault("neighbours stand in a book; give one: --book DIR")
    neighbours = open_neighbours(subject.book, subject.model.fingerprint)
    for foretold in foretell(subject, windows, neighbours, Knn(share)):
        yield foretold.mixed(foretold.share_T)


for share in ("auto", *FIXED):
    lm_way(f"knn-{share}", needs_book=True, usual=False)(partial(mixed, share=share))
