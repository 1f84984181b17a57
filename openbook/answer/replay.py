"""An answer asked again at its version, with its settings, seed and model: law 7 as something one can try.

What decides an answer is recorded with it: the book's version, the settings, and how the model ran (`run_of`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from openbook.answer.answer import Answer
from openbook.answer.ask import write
from openbook.book.embedder import Embedder
from openbook.book.store import Book
from openbook.errors import Fault
from openbook.lm.decoding.beam import Beams
from openbook.lm.decoding.constrain import Constraint, Kind
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.model import LanguageModel
from openbook.mix.prompt import Prompt, Turn
from openbook.mix.reading import Reader
from openbook.mix.rerank import Rerank
from openbook.mix.settings import Settings

HOW = ("model", "precision", "backend", "kv_codec", "kv_layout", "encoder")
"""Names of the settings that say how a model is loaded."""


@dataclass(frozen=True)
class Replayed:
    """An answer given again. `first` is the first token that differs, None where all are the same.

    `was` and `now` are the text of that token, "" past the end; `largest` is the largest difference of a probability.
    """

    answer: Answer
    first: int | None
    was: str
    now: str
    largest: float

    @property
    def same(self) -> bool:
        """Whether it is the same, token for token."""
        return self.first is None


def run_of(model: LanguageModel, how: Mapping[str, Any]) -> dict[str, Any]:
    """How the model ran, to be kept with an answer: what it was loaded by, and the fingerprint that came of it."""
    return {name: how.get(name) for name in HOW} | {"fingerprint": model.fingerprint}


def how_it_ran(answer: Mapping[str, Any]) -> dict[str, str]:
    """What the model of an answer was loaded by, as the answer's file says: it may be anybody's.

    `Fault` where that was not kept, or the file is not as `openbook` writes it.
    """
    run = answer.get("run")
    if not isinstance(run, dict) or "fingerprint" not in run:
        raise Fault(
            "this answer does not say how its model ran; only those of `ask`, `complete` and `faq` can be replayed"
        )
    how = {name: run[name] for name in HOW if run.get(name) is not None}
    if not _as_written(answer) or not all(isinstance(value, str) for value in how.values()):
        raise Fault("this answer's file is damaged; it cannot be replayed: ask again")
    return how


def _as_written(answer: Mapping[str, Any]) -> bool:
    """Whether everything that a replay reads is there, and of its kind."""
    book, tokens = answer.get("book"), answer.get("tokens")
    kinds = {"question": str, "answer": str, "abstained": bool, "seed": int, "settings": dict}
    return (
        all(isinstance(answer.get(name), kind) for name, kind in kinds.items())
        and isinstance(book, dict)
        and type(book.get("version")) is int
        and isinstance(tokens, list)
        and all(isinstance(t, dict) and isinstance(t.get("text"), str) for t in tokens)
        and all(isinstance(t.get("p"), int | float) for t in tokens)
    )


def replay(
    answer: Mapping[str, Any], book: Book, model: LanguageModel, encoder: Embedder | None = None, **kept: Any
) -> Replayed:
    """Ask an answer's question again; `book` is opened at its version. `kept` goes to the `Reader`.

    `Fault` where the version or the model is another, or a setting cannot be read back.
    """
    version, fingerprint = answer["book"]["version"], answer["run"]["fingerprint"]
    if book.version != version:
        raise Fault(f"the answer was given at version {version}, the book is opened at {book.version}")
    if model.fingerprint != fingerprint:
        raise Fault(f"the answer was given by {fingerprint}, this model is {model.fingerprint}: not the same numbers")
    told = dict(answer["settings"])
    retrieval = told.pop("retrieval", None)  # of a text whose passage was looked up anew
    pairs = told.pop("pairs", False)  # whether pairs were read, not passages
    reader = Reader(book, model, encoder, settings_from(told, answer["seed"]), **kept)
    if pairs:
        reader = _of_pairs(reader, answer["question"])
    if retrieval is None:
        return compare(answer, write(reader, answer["question"]))
    from openbook.answer.complete import as_recorded

    return compare(answer, as_recorded(reader, answer["question"], retrieval))


def _of_pairs(reader: Reader, question: str) -> Reader:
    from openbook.book.faq.knowledge import open_knowledge
    from openbook.mix.sources.faq import PairReader

    matches = open_knowledge(reader.book, reader.encoder).find(question).matches
    return PairReader(reader.book, reader.model, reader.encoder, reader.settings, reader.kept, matches=matches)


def compare(answer: Mapping[str, Any], fresh: Answer) -> Replayed:
    """The first token that differs, the end being one."""
    before, now = answer["tokens"], fresh.to_dict()["tokens"]
    largest = max((abs(a["p"] - b["p"]) for a, b in zip(before, now, strict=False)), default=0.0)
    texts = [[token["text"] for token in tokens] for tokens in (before, now)]
    for at in range(max(len(before), len(now))):
        was, is_now = (tokens[at] if at < len(tokens) else "" for tokens in texts)
        if was != is_now or at >= min(len(before), len(now)):
            return Replayed(fresh, at, was, is_now, largest)
    if (answer["answer"], answer["abstained"]) != (fresh.text, fresh.abstained):
        return Replayed(fresh, len(now), answer["answer"], fresh.text, largest)
    return Replayed(fresh, None, "", "", largest)


def settings_from(summary: Mapping[str, Any], seed: int = 0) -> Settings:
    """The settings of which this is the summary, and a seed; `Fault` naming what cannot be read back."""
    plain = {f.name for f in fields(Settings)} - {"sampling", "beams", "constraint", "rerank", "prompt"}
    try:
        settings = replace(
            Settings(),
            sampling=Sampling(seed=seed, **{f.name: summary[f.name] for f in fields(Sampling) if f.name in summary}),
            beams=_beams(summary),
            constraint=_constraint(summary.get("constraint")),
            rerank=_rerank(summary.get("rerank")),
            prompt=_prompt(summary),
            **{name: _value(summary[name]) for name in plain if name in summary and not _unused(name, summary[name])},
        )
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise Fault(f"the settings of this answer cannot be read back: {error}") from error
    again = settings.summary()
    if wrong := sorted(name for name in summary if name not in again or _value(again[name]) != _value(summary[name])):
        raise Fault(f"this openbook cannot ask with the settings of this answer: {', '.join(wrong)}")
    return settings


def _unused(name: str, value: Any) -> bool:
    """`hops` is only recorded where paths have any."""
    return name == "hops" and value is None


def _value(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _beams(summary: Mapping[str, Any]) -> Beams | None:
    if summary.get("beams", 1) == 1:
        return None
    return Beams(summary["beams"], summary["length_penalty"], summary["early_stopping"])


def _constraint(given: Mapping[str, Any] | None) -> Constraint | None:
    if given is None:
        return None
    [(kind, text)] = given.items()
    return Constraint(cast("Kind", kind), text)  # it refuses other kinds


def _prompt(summary: Mapping[str, Any]) -> Prompt:
    """What was said before the question, and is to be minded."""
    turns = tuple(Turn(*map(str, turn)) for turn in summary.get("turns", ()))
    return Prompt(turns=turns, instructions=str(summary.get("instructions", "")))


def _rerank(given: Mapping[str, Any] | None) -> Rerank | None:
    if given is None:
        return None
    if given.get("model") is not None:
        raise Fault(f"this answer was reranked by the cross-encoder {given['model']}, whose folder is not recorded")
    return Rerank(**given)
