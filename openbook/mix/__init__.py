"""Floor 3: where the model and the book meet: sources, weights, decoding, evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openbook.lazy import names

if TYPE_CHECKING:
    from openbook.lm.decoding.sampling import Sampling as Sampling
    from openbook.mix.decode import generate as generate
    from openbook.mix.evidence import Evidence as Evidence
    from openbook.mix.mixture import Mixture as Mixture
    from openbook.mix.mixture import Weights as Weights
    from openbook.mix.reading import Reader as Reader
    from openbook.mix.settings import Settings as Settings
    from openbook.mix.source import Source as Source
    from openbook.mix.speculation import Speculation as Speculation

_HOMES = {
    "Evidence": "openbook.mix.evidence",
    "Mixture": "openbook.mix.mixture",
    "Reader": "openbook.mix.reading",
    "Sampling": "openbook.lm.decoding.sampling",
    "Settings": "openbook.mix.settings",
    "Source": "openbook.mix.source",
    "Speculation": "openbook.mix.speculation",
    "Weights": "openbook.mix.mixture",
    "generate": "openbook.mix.decode",
}
__getattr__, __dir__ = names(__name__, _HOMES)
