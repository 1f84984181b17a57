"""What a race is: entrants who take turns, and the ratios that are asked of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openbook.measure.speed.environments import Environment

OURS, MEMORY = "openbook", "memory read"


@dataclass(frozen=True)
class Entrant:
    """One contestant of a race: a script of `workers/`, and where it runs (None: with us).

    `task` makes what its `open` is given, files of weights too, when its turn to get ready comes. Of several `ways`
    (further arguments of `open`) the quickest in a trial runs. `busy`: while another program computes on one core.
    """

    name: str
    script: str
    task: Callable[[], Mapping[str, Any]]
    environment: Environment | None = None
    ways: tuple[Mapping[str, Any], ...] = ({},)
    busy: bool = False
    unit: str | None = None


@dataclass(frozen=True)
class Ratio:
    """`factor` · an entrant's value over another's, in the same round; of several rivals, over the best there is.
    Over nobody it is the value itself, in the race's unit.

    `asked`: at least that much (with `most`: at most); None: only told.
    """

    what: str
    over: str
    under: tuple[str, ...]
    asked: float | None = None
    most: bool = False
    factor: float = 1.0

    def holds(self, value: float) -> bool | None:
        """Whether what is asked is reached; None where nothing is."""
        if self.asked is None:
            return None
        return value <= self.asked if self.most else value >= self.asked


@dataclass(frozen=True)
class Race:
    """`higher`: whether more of the unit is better. `rounds`: how many, whatever is asked; 1 if no time is taken."""

    name: str
    title: str
    unit: str
    entrants: tuple[Entrant, ...]
    ratios: tuple[Ratio, ...] = ()
    higher: bool = True
    rounds: int | None = None


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of what was measured."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Quartiles as numbers between those measured (inclusive)."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Row:
    """What an entrant did: a value a round, the way it ran, and what its process said of itself."""

    name: str
    unit: str
    values: tuple[float, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    way: Mapping[str, Any] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spread(self) -> Spread:
        """Of its values."""
        return Spread.of(self.values)


@dataclass(frozen=True)
class Found:
    """A ratio as measured: the median of its rounds, so drift of the machine between rounds falls out."""

    ratio: Ratio
    against: str
    spread: Spread
    unit: str = "×"

    @property
    def holds(self) -> bool | None:
        """Whether the median is what is asked."""
        return self.ratio.holds(self.spread.median)


@dataclass(frozen=True)
class Outcome:
    """A race that was run; `absent` says of entrants that did not run why."""

    race: Race
    rows: tuple[Row, ...]
    absent: Mapping[str, str] = field(default_factory=dict)

    def row(self, name: str) -> Row | None:
        """The entrant's row, if it ran."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def ratios(self) -> tuple[Found, ...]:
        """Every ratio whose two sides ran."""
        return tuple(found for ratio in self.race.ratios if (found := self._found(ratio)) is not None)

    def _found(self, ratio: Ratio) -> Found | None:
        ours = self.row(ratio.over)
        rivals = [row for name in ratio.under if (row := self.row(name)) is not None]
        if ours is not None and not ratio.under:
            return Found(ratio, "", Spread.of([ratio.factor * value for value in ours.values]), ours.unit)
        if ours is None or not rivals:
            return None
        best = (max if self.race.higher else min)(rivals, key=lambda row: row.spread.median)
        pairs = zip(ours.values, best.values, strict=True)
        return Found(ratio, best.name, Spread.of([ratio.factor * a / b for a, b in pairs]))
