"""From the numbers that wrote an answer to sentences with citations: nothing here asks the model anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from openbook.answer.answer import Citation, Likely, Member, Source, Token
from openbook.answer.citations import best_span
from openbook.book.retrieve import Hit
from openbook.book.sentences import sentences
from openbook.lm.tokenizer import Tokenizer
from openbook.mix.decode import Step
from openbook.mix.evidence import Evidence
from openbook.mix.mixture import Mixture
from openbook.mix.reading import Reading

LEAST_BITS = 1.0
"""A sentence to which a passage added less is not cited to it: the model would have written it anyway."""


def token_of(step: Step, text: str, start: int, mixture: Mixture) -> Token:
    """One token with its row of evidence; `start` is where its text begins."""
    row = Evidence.of(mixture.labels, mixture.weights, [step])
    shares = zip(mixture.labels, row.responsibility_TS[0].tolist(), strict=True)
    bits = None if row.bits_T is None else float(row.bits_T[0])
    return Token(
        text,
        (start, start + len(text)),
        float(np.exp(step.log_p)),
        bits,
        {la.id: r for la, r in shares},
        step.certified,
    )


def likeliest_of(step: Step, tokenizer: Tokenizer) -> tuple[Likely, ...]:
    """What could have come in a token's place, spelled."""
    return tuple(
        Likely(tokenizer.decode([token]), tuple(tokenizer.token_bytes(token)), log_p) for token, log_p in step.likeliest
    )


def trimmed(tokens: Sequence[Token]) -> tuple[str, tuple[Token, ...]]:
    """The answer without the white space around it, and its tokens with spans into that. Their texts join to it."""
    raw = "".join(token.text for token in tokens)
    text = raw.strip()
    shift = len(raw) - len(raw.lstrip())
    placed = []
    for token in tokens:
        start, end = (min(max(at - shift, 0), len(text)) for at in token.span)
        placed.append(replace(token, text=text[start:end], span=(start, end)))
    return text, tuple(placed)


def sources_of(
    reading: Reading, evidence: Evidence | None, left_out: Sequence[Sequence[float]] = ()
) -> tuple[Source, ...]:
    """Every source with its share in the answer; without evidence (an abstention) only what was believed before.

    `left_out` has the drop of each passage of each branch that holds several.
    """
    mixture = reading.mixture
    prior_S, refined_S = np.exp(reading.log_retrieved_S), np.exp(mixture.weights.log_prior_S)
    made = []
    for s, label in enumerate(mixture.labels):
        source = Source(label.id, label.kind, prior=float(prior_S[s]), refined=float(refined_S[s]))
        if s < len(reading.paths):
            source = _placed(source, reading.paths[s], left_out[s] if left_out else ())
        made.append(source if evidence is None else _with_share(source, s, evidence))
    return tuple(made)


def _placed(source: Source, path: Sequence[Hit], drops: Sequence[float]) -> Source:
    """The source with where its passage stands, or each of its passages; the last of a path is the most believed."""
    passages = [hit.passage for hit in path]
    told: list[float | None] = [*drops] if drops else [None] * len(passages)
    members = tuple(
        Member(p.document, p.title, p.heading, p.page, p.line, (p.start, p.end), p.text, drop)
        for p, drop in zip(passages, told, strict=True)
    )
    chief = max(range(len(members)), key=lambda i: (told[i] or 0.0, i))
    p = passages[chief]
    return replace(
        source, document=p.document, title=p.title, heading=p.heading, page=p.page, line=p.line,
        span=(p.start, p.end), text=p.text, members=members if len(members) > 1 else (),
    )  # fmt: skip


def _with_share(source: Source, s: int, evidence: Evidence) -> Source:
    share_T = evidence.responsibility_TS[:, s]
    bits = None if evidence.bits_T is None else float(share_T @ evidence.bits_T)
    return replace(
        source,
        responsibility=float(share_T.mean()) if len(share_T) else 0.0,
        bits=bits,
        necessity=float(evidence.necessity_S[s]),
        sufficiency=float(evidence.sufficiency_S[s]),
    )


def cite(text: str, tokens: Sequence[Token], sources: Sequence[Source]) -> tuple[Citation, ...]:
    """A citation for each sentence to which a passage added enough: the passage that added most, at the best place.

    Several sentences may cite one passage; a sentence cites one passage, the one its bits came from.
    """
    made = []
    for start, end in sentences(text, 0, len(text)):
        inside = [t for t in tokens if t.span[0] < end and t.span[1] > start]
        added = {s.id: sum(t.responsibility[s.id] * max(t.bits or 0.0, 0.0) for t in inside) for s in sources}
        carrier = max((s for s in sources if s.kind in ("passage", "faq")), key=lambda s: added[s.id], default=None)
        if carrier is None or carrier.text is None or carrier.span is None or added[carrier.id] < LEAST_BITS:
            continue
        share = float(np.mean([t.responsibility[carrier.id] for t in inside]))
        for member, passage, begin in _passages_of(carrier, carrier.text, carrier.span[0]):
            if found := best_span(text[start:end], passage):
                a, b = found
                place = (begin + a, begin + b)
                made.append(Citation((start, end), carrier.id, place, passage[a:b], share, member))
                break
    return tuple(made)


def _passages_of(source: Source, text: str, start: int) -> list[tuple[int | None, str, int]]:
    """Which member, its text and where that begins: those that do most for the source first."""
    if not source.members:
        return [(None, text, start)]
    order = sorted(enumerate(source.members), key=lambda pair: (-(pair[1].left_out or 0.0), -pair[0]))
    return [(i, member.text, member.span[0]) for i, member in order]
