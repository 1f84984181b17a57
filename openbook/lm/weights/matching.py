"""Which tensors of a file make our parameters, and everything about them that is wrong, said at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.spec import ModelSpec, Seq2SeqSpec
from openbook.lm.weights.names import NameTable, original, wanted
from openbook.lm.weights.parameters import Shape, parameters
from openbook.lm.weights.recipes import Plan

MOST_NAMES = 24  # in one message, many layers counting as one: more is no longer read
MOST_LETTERS = 120
WORTH = 4  # names asked for to each tensor of the file: there are two layouts of experts, and some may be missing


@dataclass(frozen=True)
class Made:
    """How one parameter is made: its plan, and what the plan's tensors are called in the file.

    `twice` are tensors of the file, among `names` too, that must be equal to it, with what is to be said if one is not.
    """

    plan: Plan
    names: Mapping[str, str]
    twice: Mapping[str, str] = field(default_factory=dict)

    def of(self, read: Callable[[str], Tensor]) -> Tensor:
        """The parameter, where `read` gives a tensor of the file by name; its memory is its own."""
        tensor = self.plan.made(lambda name: read(self.names[name])).contiguous()
        for name, problem in self.twice.items():
            if not torch.equal(read(name), tensor):
                raise Fault(problem)
        # A part of a fused tensor would keep all of it.
        return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def match(spec: ModelSpec | Seq2SeqSpec, table: NameTable, shapes: Mapping[str, Shape], path: Path) -> dict[str, Made]:
    """How each of our parameters is made. A `Fault` names all tensors that are missing, misshapen and left over."""
    found: dict[str, Made] = {}
    missing: list[str] = []
    misshapen: dict[str, str] = {}
    try:
        ours_shapes = parameters(spec)
    except Fault as error:
        raise Fault(f"{path}: {error}") from error
    worth = WORTH * len(shapes) + MOST_NAMES
    for ours in ours_shapes:
        plans = _plans(spec, table, ours_shapes, ours, worth)
        ways = [Made(plan, _resolved(table, plan, shapes)) for plan in plans]
        worth -= sum(len(made.plan.needs) for made in ways)
        if not ways:
            missing.append(ours)
            continue
        made = max(ways, key=lambda made: _fit(made, shapes))
        missing += [table.written(ours, name) for name in made.plan.needs if name not in made.names]
        for name, actual in made.names.items():
            has, needed = tuple(shapes[actual]), tuple(made.plan.needs[name])
            if has != needed:
                misshapen[actual] = f"of shape {_sizes(has)}, but the configuration says {_sizes(needed)}"
        found[ours] = made
    used = {name for made in found.values() for name in made.names.values()}
    for name, ours in _twice(spec, table).items():
        if name not in shapes or name in used or ours not in found:
            continue
        made, has, needed = found[ours], tuple(shapes[name]), ours_shapes[ours]
        if has != needed:
            misshapen[name] = f"of shape {_sizes(has)}, but the configuration says {_sizes(needed)}"
        first = next(iter(made.names.values()), ours)
        problem = (
            f"{path}: {_short(name)} differs from {_short(first)}, and the configuration says that they are one; "
            "set tie_word_embeddings to false there, or take a checkpoint that is whole"
        )
        found[ours] = Made(made.plan, {**made.names, name: name}, {**made.twice, name: problem})
        used.add(name)
    more = [name for name in shapes if name not in used and not table.ignores(name)]
    if missing or misshapen or more:
        raise _told(path, list(dict.fromkeys(missing)), misshapen, more)
    return found


def _plans(
    spec: ModelSpec | Seq2SeqSpec, table: NameTable, shapes: Mapping[str, Shape], ours: str, worth: int
) -> Iterator[Plan]:
    ours = original(spec, ours)
    how = table.find(ours)
    if how is not None:
        yield from how[0].plans(wanted(spec, shapes, ours, how[1], worth))


def _resolved(table: NameTable, plan: Plan, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """What the tensors that the plan needs are called in the file, those that are there."""
    candidates = {name: (each for each in table.spellings(name) if each in shapes) for name in plan.needs}
    first = {name: next(there, None) for name, there in candidates.items()}
    return {name: actual for name, actual in first.items() if actual is not None}


def _fit(made: Made, shapes: Mapping[str, Shape]) -> tuple[bool, bool, bool]:
    """How well a way to make a parameter fits; of equals the first is taken."""
    whole = len(made.names) == len(made.plan.needs)
    fits = all(tuple(shapes[actual]) == tuple(made.plan.needs[name]) for name, actual in made.names.items())
    return whole and fits, whole, bool(made.names)


def _twice(spec: ModelSpec | Seq2SeqSpec, table: NameTable) -> dict[str, str]:
    """Names under which some checkpoints store a tied head, or a shared embedding, a second time, and ours of it."""
    decoder, at = (spec, "") if isinstance(spec, ModelSpec) else (spec.decoder, "decoder.")
    again = [f"{at}head.weight"] if decoder.head and decoder.tied else []
    embedding = original(spec, f"{at}embedding.weight")
    again += [f"{at}embedding.weight"] if embedding != f"{at}embedding.weight" else []
    names = {spelling: embedding for name in table.again for spelling in table.spellings(name)}
    for ours in again:
        try:
            names |= dict.fromkeys(table.spellings(table.theirs(ours)), embedding)
        except Fault:  # a family without a name for it
            continue
    return names


def _told(path: Path, missing: list[str], misshapen: Mapping[str, str], more: list[str]) -> Fault:
    """What is wrong in one line, with what to do; a note, which `--debug` shows, has every name."""
    by_problem: dict[str, list[str]] = {}
    for name, problem in misshapen.items():
        by_problem.setdefault(problem, []).append(name)
    groups = [(missing, "missing"), *((names, problem) for problem, names in by_problem.items()), (more, "left over")]
    groups = [(names, what) for names, what in groups if names]
    done = "the configuration does not describe this checkpoint" if misshapen or more else "the checkpoint is not whole"
    said = [f"{listed(names)} {what}" for names, what in groups[:MOST_NAMES]]
    said += [f"{len(groups) - MOST_NAMES} more shapes are wrong"] if len(groups) > MOST_NAMES else []
    fault = Fault(f"{path}: {'; '.join(said)}; {done}")
    fault.add_note("\n".join(f"{what}: {name}" for names, what in groups for name in names))
    return fault


def listed(names: list[str]) -> str:
    """The names and a verb; layers, and experts, that lack the same are one name with a range."""
    if len(names) == 1:
        return f"tensor {_short(names[0])} is"
    ranges = collapsed(names)
    rest = len(ranges) - MOST_NAMES
    listed = ", ".join(_short(name) for name in ranges[:MOST_NAMES])
    return f"{len(names)} tensors ({listed}{f' and {rest} more, see --debug' if rest > 0 else ''}) are"


def collapsed(names: Iterable[str]) -> list[str]:
    """Names that differ in one number alone as one, with the numbers as ranges: `blk.{0-2,5}.attn_q.weight`."""
    parts = list(dict.fromkeys(tuple(_NUMBER.split(name)) for name in names))
    # From the last number on: an expert's before its layer's.
    for place in range(max(map(len, parts), default=0) - 2, 0, -2):
        groups: dict[tuple[str, ...], list[str]] = {}
        for part in parts:
            key = (*part[:place], "", *part[place + 1 :]) if place < len(part) else part
            groups.setdefault(key, []).append(part[place] if place < len(part) else "")
        parts = [
            (*key[:place], _ranges(numbers), *key[place + 1 :]) if place < len(key) else key
            for key, numbers in groups.items()
        ]
    return ["".join(part) for part in parts]


_NUMBER = re.compile(r"(?<=\.)(\d{1,9})(?=\.)")


def _ranges(numbers: list[str]) -> str:
    if len(numbers) == 1 or not all(number.isdecimal() for number in numbers):
        return numbers[0] if len(numbers) == 1 else "{" + ",".join(dict.fromkeys(numbers)) + "}"
    runs: list[tuple[int, int]] = []
    for number in sorted({int(number) for number in numbers}):
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return "{" + ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) + "}"


def _short(name: str) -> str:
    """Names come from the file, which may have very long ones."""
    return name if len(name) <= MOST_LETTERS else f"{name[:MOST_LETTERS]}…"


def _sizes(shape: Shape) -> str:
    sizes = [str(size) for size in shape[:8]] + (["…"] if len(shape) > 8 else [])
    return f"[{', '.join(sizes)}]"
