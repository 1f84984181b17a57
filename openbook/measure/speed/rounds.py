"""The turns of a race: every entrant loaded, each running once a round, one at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from openbook.errors import Fault
from openbook.measure.speed.entrants import Entrant, Outcome, Race, Row
from openbook.measure.speed.process import Worker, busy_program

TRIALS = 2
PAUSE = 0.2
"""Seconds between turns: idle threads of the last contestant have gone to sleep by then."""
Tell = Callable[[int, int, str], None]


class Contestant(Protocol):
    """A process as the turns see it (`process.Worker`)."""

    def call(self, name: str, **given: Any) -> Any:
        """What a function of its script returns."""

    def run(self) -> dict[str, Any]:
        """One timed run of what was opened."""

    def close(self) -> None:
        """End it."""


Start = Callable[[Entrant], Contestant]


def starter(threads: int, tell: Callable[[str], None]) -> Start:
    """Starts entrants as processes with that many threads, after installing what they run in."""

    def start(entrant: Entrant) -> Contestant:
        if entrant.environment is not None:
            entrant.environment.install(tell)
        return Worker(entrant.script, entrant.environment, threads)

    return start


def hold(race: Race, rounds: int, start: Start, tell: Tell, absent: Mapping[str, str] | None = None) -> Outcome:
    """Run the race. An entrant that cannot be made ready or fails is absent, with the reason; the others run on."""
    missing = dict(absent or {})
    rounds = race.rounds or rounds
    with contextlib.ExitStack() as stack:
        ready: dict[str, tuple[Contestant, dict[str, Any], Mapping[str, Any]]] = {}
        for i, entrant in enumerate(race.entrants):
            tell(i, len(race.entrants), f"{race.name}: {entrant.name} gets ready")
            try:
                contestant = start(entrant)
                stack.callback(contestant.close)
                ready[entrant.name] = (contestant, *_ready(contestant, entrant, once=race.rounds == 1))
            except Fault as fault:
                missing[entrant.name] = str(fault)
        values, last = _turns(race, {name: one[0] for name, one in ready.items()}, rounds, tell, missing)
    rows = [
        Row(e.name, e.unit or race.unit, tuple(values[e.name]), ready[e.name][1], ready[e.name][2], last[e.name])
        for e in race.entrants
        if e.name in ready and e.name not in missing
    ]
    return Outcome(race, tuple(rows), missing)


def _ready(contestant: Contestant, entrant: Entrant, once: bool) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Open it the quickest way there is and let it run once; its facts and that way."""
    task, way = entrant.task(), entrant.ways[0]
    if len(entrant.ways) > 1:
        way = entrant.ways[_quickest([_trial(contestant, {**task, **each}) for each in entrant.ways])]
    facts = contestant.call("open", **task, **way)
    if not once:
        contestant.run()
    return facts, way


def _trial(contestant: Contestant, task: Mapping[str, Any]) -> float | Fault:
    """The best of some runs: other programs can only slow a run down."""
    try:
        contestant.call("open", **task)
        return max(float(contestant.run()["value"]) for _ in range(TRIALS))
    except Fault as fault:  # this version of the rival lacks this way
        return fault


def _quickest(trials: Sequence[float | Fault]) -> int:
    done = [i for i, value in enumerate(trials) if not isinstance(value, Fault)]
    if not done:
        raise next(value for value in trials if isinstance(value, Fault))
    return max(done, key=lambda i: trials[i])  # type: ignore[arg-type,return-value]


def _turns(
    race: Race, ready: Mapping[str, Contestant], rounds: int, tell: Tell, missing: dict[str, str]
) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]]]:
    """The values of each entrant, one a round, and what its last run said beside them."""
    values: dict[str, list[float]] = {name: [] for name in ready}
    last: dict[str, dict[str, Any]] = {}
    for turn in range(rounds):
        for entrant in race.entrants:
            if entrant.name not in ready or entrant.name in missing:
                continue
            tell(turn, rounds, f"{race.name}: {entrant.name}")
            time.sleep(PAUSE)
            try:
                with busy_program() if entrant.busy else contextlib.nullcontext():
                    ran = ready[entrant.name].run()
            except Fault as fault:
                missing[entrant.name] = str(fault)
                continue
            values[entrant.name].append(float(ran["value"]))
            last[entrant.name] = {key: value for key, value in ran.items() if key != "value"}
    return values, last
