"""The races: what is run side by side, and the ratios asked for.

A race is a function from a `Setting` to a `Race`, registered by name; one more is one more function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openbook.measure.speed import files
from openbook.measure.speed.entrants import MEMORY, OURS, Entrant, Race, Ratio
from openbook.measure.speed.environments import LLAMA_CPP, SENTENCES, TRANSFORMERS

if TYPE_CHECKING:
    from openbook.lm.weights.checkpoint import Checkpoint
    from openbook.measure.speed.material import Material

SAME, FORMATS = "llama.cpp, same file", ("Q4_0", "Q8_0", "BF16")
LLAMA = (SAME, *(f"llama.cpp {kind}" for kind in FORMATS))
HF = "transformers bf16"
ST, ST_BF16 = "sentence-transformers", "sentence-transformers bf16"


@dataclass(frozen=True)
class Setting:
    """What the races of one run share. `alone`: without rivals. `quick`: shorter runs, whose figures are rough."""

    checkpoint: Checkpoint
    material: Material
    encoder: Path
    threads: int
    tell: Callable[[str], None]
    alone: bool = False
    quick: bool = False

    def rivals(self, entrants: tuple[Entrant, ...]) -> tuple[Entrant, ...]:
        """These, unless openbook runs alone."""
        return () if self.alone else entrants

    @property
    def ours(self) -> str:
        """The path openbook loads."""
        return str(self.checkpoint.path)

    @cached_property
    def memory(self) -> Entrant:
        """The machine's read bandwidth, an entrant like others: it drifts, so it is measured every round."""
        task = {"threads": self.threads, "megabytes": 256 if self.quick else 1024}
        return Entrant(MEMORY, "memory", lambda: task, unit="GB/s")


Build = Callable[[Setting], Race]
RACES: dict[str, Build] = {}


def race(name: str) -> Callable[[Build], Build]:
    """Register how a race is set up."""

    def register(build: Build) -> Build:
        RACES[name] = build
        return build

    return register


def _openbook(setting: Setting, name: str = OURS, busy: bool = False, **task: Any) -> Entrant:
    return Entrant(name, "ours", lambda: {"model": setting.ours, "threads": setting.threads, **task}, busy=busy)


LLAMA_WAYS: tuple[Mapping[str, Any], ...] = ({}, {"flash": False}, {"repack": False})


def _llama(setting: Setting, ways: tuple[Mapping[str, Any], ...] = LLAMA_WAYS, **task: Any) -> tuple[Entrant, ...]:
    """llama.cpp on the same file and on each other format of it."""

    def given(kind: str | None) -> Mapping[str, Any]:
        path = files.requantised(setting.checkpoint, kind, setting.threads, setting.tell) if kind else setting.ours
        return {"model": str(path), "threads": setting.threads, **task}

    kinds = (None, *FORMATS)
    return tuple(
        Entrant(name, "llama_cpp", partial(given, kind), LLAMA_CPP, ways)
        for name, kind in zip(LLAMA, kinds, strict=True)
    )


def _transformers(setting: Setting, **task: Any) -> Entrant:
    def given() -> Mapping[str, Any]:
        folder = files.as_folder(setting.checkpoint, setting.tell)
        return {"model": str(folder), "threads": setting.threads, **task}

    return Entrant(HF, "transformers_lm", given, TRANSFORMERS, ({"cache": "dynamic"}, {"cache": "static"}))


@race("decode")
def decode(setting: Setting) -> Race:
    """One branch, greedy, behind a prompt of 100 tokens."""
    new = 32 if setting.quick else 128
    task: dict[str, Any] = {"race": "decode", "prompts": setting.material.prompts(1, 100), "new": new}
    rivals = setting.rivals((*_llama(setting, **task), _transformers(setting, **task)))
    ratios = (
        Ratio("over llama.cpp on the same file", OURS, (SAME,), 2.5),
        Ratio("over llama.cpp in its best format", OURS, LLAMA, 1.9),
        Ratio("over transformers in bf16", OURS, (HF,), 9),
    )
    title = f"Decoding, one branch: {new} tokens after a prompt of 100"
    return Race("decode", title, "tokens/s", (_openbook(setting, **task), *rivals, setting.memory), ratios)


@race("branches")
def branches(setting: Setting) -> Race:
    """Eight branches with passages of their own, one step for all."""
    count, new = 8, 16 if setting.quick else 64
    task: dict[str, Any] = {"race": "decode", "prompts": setting.material.prompts(count, 200), "new": new}
    single: dict[str, Any] = {**task, "prompts": setting.material.prompts(1, 200)}
    one = f"{OURS}, 1 branch"
    ways = (*LLAMA_WAYS, {"unified": True}, {"unified": True, "flash": False})
    rivals = setting.rivals((*_llama(setting, ways, **task), _transformers(setting, **task)))
    ratios = (
        # Tokens a second over tokens a second is branches times steps: 8 · single / together is step over step.
        Ratio("a step of 8 branches over a step of 1", one, (OURS,), 2, most=True, factor=count),
        Ratio("over llama.cpp's batch on the same file", OURS, (SAME,), 2.5),
        Ratio("over llama.cpp's batch in its best format", OURS, LLAMA, 2.5),
        Ratio("over transformers in bf16", OURS, (HF,)),
    )
    entrants = (_openbook(setting, **task), _openbook(setting, one, **single), *rivals, setting.memory)
    title = f"Decoding, {count} branches with passages of 200 tokens of their own: {new} tokens each"
    return Race("branches", title, "tokens/s together", entrants, ratios)


@race("prefill")
def prefill(setting: Setting) -> Race:
    """Reading a prompt of 512 tokens."""
    prompts = setting.material.prompts(1, 512)
    theirs: dict[str, Any] = {"race": "prefill", "prompts": prompts, "new": 0}
    rivals = setting.rivals((*_llama(setting, **theirs), _transformers(setting, **theirs)))
    ratios = (
        Ratio("over llama.cpp on the same file", OURS, (SAME,)),
        Ratio("over llama.cpp in its best format", OURS, LLAMA, 2),
        Ratio("over transformers in bf16", OURS, (HF,)),
    )
    entrants = (_openbook(setting, race="prefill", prompts=prompts), *rivals, setting.memory)
    return Race("prefill", "Reading a prompt of 512 tokens", "tokens/s", entrants, ratios)


@race("busy")
def busy(setting: Setting) -> Race:
    """Decoding while another program computes on one core, beside decoding alone."""
    task: dict[str, Any] = {"race": "decode", "prompts": setting.material.prompts(1, 100)}
    ours = {**task, "new": 16 if setting.quick else 128}
    loaded = f"{OURS}, one core busy"
    # Beside a busy program llama.cpp may write one token a second: few are enough.
    theirs = setting.rivals(_llama(setting, ({},), **task, new=8 if setting.quick else 24)[:1])
    crowded = tuple(Entrant(f"{e.name}, one core busy", e.script, e.task, e.environment, e.ways, True) for e in theirs)
    ratios = (
        Ratio("one core busy over quiet", loaded, (OURS,), 0.4),
        *(Ratio(f"{SAME}, one core busy over quiet", e.name, (SAME,)) for e in crowded),
    )
    entrants = (_openbook(setting, **ours), _openbook(setting, loaded, busy=True, **ours), *theirs, *crowded)
    return Race("busy", "Decoding beside a program that keeps one core busy", "tokens/s", entrants, ratios)


@race("first-token")
def first_token(setting: Setting) -> Race:
    """A question over five passages of 200 tokens: with the passages' keys and values kept, and without."""
    decode = setting.material.tokenizer.decode
    passages = [decode(tokens) for tokens in setting.material.prompts(5, 200)]
    questions = [f"What is said of {decode(tokens).strip()}?" for tokens in setting.material.prompts(100, 4)]
    names = {"nowhere": "passages read anew", "memory": "passages in memory", "disk": "passages on disk"}
    task = {"race": "first-token", "model": setting.ours, "threads": setting.threads}
    task |= {"passages": passages, "questions": questions}

    def given(kept: str) -> Mapping[str, Any]:
        return {**task, "kept": kept}

    entrants = tuple(Entrant(f"{OURS}, {name}", "answers", partial(given, kept)) for kept, name in names.items())
    anew, *kept = (one.name for one in entrants)
    ratios = tuple(Ratio(f"{name} over anew", name, (anew,), 1 / 8, most=True) for name in kept)
    title = "First token of a question over 5 passages of 200 tokens and the closed book"
    return Race("first-token", title, "ms", (*entrants, setting.memory), ratios, higher=False)


@race("startup")
def startup(setting: Setting) -> Race:
    """`openbook ask` on a warm book of 1,000 passages, the whole process, from its start to the first token."""
    count = 50 if setting.quick else 1000

    def given() -> Mapping[str, Any]:
        book = files.book(setting.material, count, setting.encoder, setting.tell)
        asked = {"question": "What is an expression?", "book": str(book)}
        return {"race": "startup", "model": setting.ours, "threads": setting.threads, **asked}

    ratios = (Ratio("from its start to the first token", OURS, (), 2.5, most=True),)
    entrants = (Entrant(OURS, "answers", given),)
    title = f"openbook ask on a warm book of {count:,} passages, from the start of the process to the first token"
    return Race("startup", title, "s", entrants, ratios, higher=False)


@race("index")
def index(setting: Setting) -> Race:
    """Embedding passages as `openbook add` does."""
    from openbook.lm.encoder import load_encoder

    texts = setting.material.passages(32 if setting.quick else 128, load_encoder(setting.encoder))
    task: dict[str, Any] = {"model": str(setting.encoder), "texts": texts, "threads": setting.threads}
    batches = tuple({"batch": count} for count in (16, 32, 128))
    rivals = setting.rivals(
        (
            Entrant(ST, "sentences", lambda: task, SENTENCES, batches),
            Entrant(ST_BF16, "sentences", lambda: {**task, "dtype": "bfloat16"}, SENTENCES, batches),
        )
    )
    ratios = (
        Ratio("over sentence-transformers", OURS, (ST,), 4),
        Ratio("over sentence-transformers in bf16", OURS, (ST_BF16,)),
    )
    ours = Entrant(OURS, "ours", lambda: {"race": "index", **task})
    title = f"Embedding {len(texts)} passages with MiniLM"
    return Race("index", title, "texts/s", (ours, *rivals, setting.memory), ratios)


@race("perplexity")
def perplexity(setting: Setting) -> Race:
    """The native backend's arithmetic beside fp32 on the same quantised weights; no speed is measured."""
    window, most = 512, 4096 if setting.quick else 50_000
    tokens = setting.material.beginning(most, window)
    native, exact = f"{OURS}, native", f"{OURS}, torch fp32"
    task: dict[str, Any] = {"race": "perplexity", "tokens": tokens, "window": window}
    entrants = (
        _openbook(setting, native, backend="native", **task),
        _openbook(setting, exact, backend="torch", precision="fp32", **task),
    )
    ratios = (Ratio("native over torch fp32", native, (exact,), 1.005, most=True),)
    title = f"Perplexity of {setting.material.name}, its first {len(tokens):,} tokens in windows of {window}"
    return Race("perplexity", title, "perplexity", entrants, ratios, higher=False, rounds=1)


@race("bandwidth")
def bandwidth(setting: Setting) -> Race:
    """Decoding with weights that no cache holds: bytes of weights a second beside what memory gives."""
    new = 4 if setting.quick else 32
    kinds = ("Q8_0", "Q4_0")
    task: dict[str, Any] = {
        "race": "decode",
        "prompts": setting.material.prompts(1, 32),
        "new": new,
        "threads": setting.threads,
    }

    made = {kind: files.random_llama(setting.checkpoint, kind, setting.tell) for kind in kinds}

    def given(kind: str, **other: Any) -> Mapping[str, Any]:
        return {"model": str(made[kind]), **task, **other}

    bound = tuple(
        Entrant(f"{OURS} {kind}, of its weights' reading", "ours", partial(given, kind, race="bound", new=16), unit="×")
        for kind in kinds
    )
    ours = tuple(Entrant(f"{OURS} {kind}", "ours", partial(given, kind)) for kind in kinds)
    theirs = setting.rivals(
        tuple(Entrant(f"llama.cpp {kind}", "llama_cpp", partial(given, kind), LLAMA_CPP, LLAMA_WAYS) for kind in kinds)
    )
    ratios = tuple(
        Ratio(
            f"{one.name}: weights read over memory read",
            one.name,
            (MEMORY,),
            0.85 if one in ours else None,
            factor=files.weight_bytes(made[one.name.split()[-1]]) / 1e9,
        )
        for one in (*ours, *theirs)
    )
    near = tuple(Ratio(f"{one.name}, which is all it does", one.name, (), 0.85) for one in bound)
    entrants = (*ours, *bound, *theirs, setting.memory)
    return Race("bandwidth", "Decoding with 1.07 billion random weights", "tokens/s", entrants, (*near, *ratios))
