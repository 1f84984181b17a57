"""First token of a question over five passages of 200 tokens: with the passage cache, in memory or on disk; without.

One process, ways alternated, a new question each round; the first token is ready when the question has been read under
every passage and the closed book and the first token's mixture is known. "disk" reads entries that the system still
holds in its page cache, as on a machine that answered a question before; "disk, cold" has it drop them first.

    .venv/bin/python bench/first_token.py [--passages 5] [--tokens 200] [--rounds 9] [--model smollm2]
                                          [--backend auto] [--kv-codec raw] [--precision auto]
"""

from __future__ import annotations

import argparse
import inspect
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from openbook.lm.cache.make import CacheSpec
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.model import LanguageModel, load_model
from openbook.measure.machine import processor
from openbook.mix.prompt import Framing
from openbook.mix.reading import make_of
from openbook.mix.source import Label
from openbook.mix.sources.branches import CLOSED_BOOK, Branch, Branches

ASKED = 8
"""The issue's bound: with the cache at most one part in so many of the time without."""
ASKED_TOKENS = 12
WORDS = [
    *("river", "bridge", "stone", "council", "letter", "winter", "harbour", "engine"),
    *("garden", "copper", "sister", "market", "signal", "forest", "island"),
]


def passages(model: LanguageModel, count: int, tokens: int) -> list[str]:
    """Texts of exactly so many tokens each, the same each time."""
    rng, made = random.Random(0), []
    for _ in range(count):
        text = rng.choice(WORDS)
        while len(ids := model.tokenizer.encode(text)) < tokens:
            text += " " + rng.choice(WORDS)
        made.append(model.tokenizer.decode(ids[:tokens]))
    return made


def question(model: LanguageModel, rng: random.Random) -> str:
    """A question of about `ASKED_TOKENS` tokens, as those of SQuAD; another each time."""
    words = "Which " + " ".join(rng.sample(WORDS, 5)) + f" of {rng.randint(1000, 2000)}?"
    while len(model.tokenizer.encode(" " + words)) < ASKED_TOKENS:
        words = words.replace(" of", f" {rng.choice(WORDS)} of")
    return words


class Race:
    """The same question in every way, one after the other, so that drift of the machine meets all alike."""

    def __init__(self, model: LanguageModel, texts: list[str], folder: Path) -> None:
        self.model, self.folder, self.make = model, folder, make_of(model)
        self.framing = Framing(model.tokenizer)
        rows = [Branch(Label(f"p{i}", "passage"), f"p{i}", (text,)) for i, text in enumerate(texts)]
        self.rows = [*rows, CLOSED_BOOK]
        self.memory = PrefixStore(1 << 40, make=self.make)
        self.disk_root = folder / "kv"
        self.ask("warm up", self.memory)
        filling = self.disk()
        self.ask("warm up", filling)
        filling.flush()
        self.files = sorted(self.disk_root.glob("*/*"))
        self.ways: dict[str, Callable[[], PrefixStore | None]] = {
            "without": lambda: None,
            "memory": lambda: self.memory,
            "disk": self.disk,
            "disk, cold": self.cold,
        }
        self.measured: dict[str, list[tuple[float, float]]] = {name: [] for name in self.ways}

    def disk(self) -> PrefixStore:
        """A store that holds nothing in memory yet."""
        return PrefixStore(1 << 40, self.disk_root, 1 << 40, self.make)

    def cold(self) -> PrefixStore:
        """The same, the entries' pages dropped by the system as far as it does."""
        for path in self.files:
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
        return self.disk()

    def ask(self, asked: str, store: PrefixStore | None) -> tuple[tuple[float, float], torch.Tensor]:
        """Milliseconds to the first token, those of all processors, and what the branches say of it."""
        began, cpu = time.perf_counter(), time.process_time()
        read = Branches(self.model, self.framing, self.rows, asked, room=64, store=store)
        first = read.start()
        first.amax().item()
        return (1e3 * (time.perf_counter() - began), 1e3 * (time.process_time() - cpu)), first

    def round(self, asked: str) -> None:
        """One question in all ways; they must not differ in a bit."""
        told = {}
        for name, store in self.ways.items():
            ready = store()
            milliseconds, told[name] = self.ask(asked, ready)
            self.measured[name].append(milliseconds)
        same = all(torch.equal(told["without"], first) for first in told.values())
        if not same:
            raise SystemExit("a branch from the passage cache differs from the same branch computed afresh")

    def report(self) -> bool:
        """What was measured; whether the bound holds for what is in memory and on disk."""
        print(f"{'kept':<12} {'first token, ms (range)':>29} {'of without':>12} {'CPU, ms':>10} {'of without':>12}")
        shares, without = {}, [statistics.median(each) for each in zip(*self.measured["without"], strict=True)]
        for name, values in self.measured.items():
            walls, cpus = zip(*values, strict=True)
            wall, cpu = statistics.median(walls), statistics.median(cpus)
            shares[name] = wall / without[0]
            spread = f"{wall:.1f} ({min(walls):.1f}–{max(walls):.1f})"
            print(f"{name:<12} {spread:>29} {_part(wall, without[0]):>12} {cpu:>10.1f} {_part(cpu, without[1]):>12}")
        met = max(shares["memory"], shares["disk"]) <= 1 / ASKED
        print(f"asked for: at most 1/{ASKED} in memory and on disk; {'met' if met else 'missed'}")
        return met


def _part(value: float, whole: float) -> str:
    return f"1/{whole / value:.1f}"


def model_of(options: argparse.Namespace) -> LanguageModel:
    """The model as the options say; `--backend` only where `load_model` offers a choice."""
    more: dict[str, Any] = {}
    if "backend" in inspect.signature(load_model).parameters:
        more["backend"] = options.backend
    elif options.backend not in ("auto", "torch"):
        raise SystemExit(f"this openbook has no backend {options.backend}")
    return load_model(options.model, precision=options.precision, cache=CacheSpec(codec=options.kv_codec), **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--kv-codec", default="raw")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    model = model_of(options)
    rng = random.Random(1)
    with tempfile.TemporaryDirectory(dir=".") as folder:  # not in memory, as /tmp may be
        race = Race(model, passages(model, options.passages, options.tokens), Path(folder))
        race.round(question(model, rng))
        for values in race.measured.values():
            values.clear()
        for _ in range(options.rounds):
            race.round(question(model, rng))
        size = statistics.mean(file.stat().st_size for file in race.files) / 1e6
    print(
        f"{processor()}, {torch.get_num_threads()} threads, {model.name}, {type(model.runner).__name__}, "
        f"{model.runner.dtype}, {options.kv_codec}: {options.passages} passages of {options.tokens} tokens beside the "
        f"closed book, {size:.1f} MB each on disk; median (range) of {options.rounds}"
    )
    sys.exit(0 if race.report() else 1)


if __name__ == "__main__":
    main()
