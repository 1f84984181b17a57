"""An answer in the shape of INTERFACES.md, which the tests of its faces share."""

from __future__ import annotations

from typing import Any

KARLSHOLT = (
    "The Karlsholt observatory stands on the western ridge above Lake Tinn, at 1,140 metres. Its 1.2-metre reflector "
    "was first used in 1994 and rebuilt after the flood of 2011. In 2019 the observatory measured a comet tail of 4.7 "
    "million kilometres; the team was led by Dr. Ingrid Vass, who had come from Tromsø two years before. The plates "
    "are kept in the east cellar and may be seen by appointment."
)
BULLETIN = (
    "Bulletin 44. Measurements of comet C/2018 W2 were taken on eleven nights between 3 and 21 September 2019 with the "
    "narrow-band filter set. The tail was followed to 4.7 million kilometres, with an uncertainty of 0.2 million."
)
DENMARK = "Observatories in Denmark and Norway share one archive of plates, which was moved to Aarhus in 2003."


def answer_of(
    question: str, rows: list[tuple[Any, ...]], sources: list[dict[str, Any]], cites: list[tuple[str, str, str]]
) -> dict[str, Any]:
    """An answer in the shape of INTERFACES.md from rows of (text, bits, one share a source)."""
    tokens: list[dict[str, Any]] = []
    text = ""
    for written, bits, *shares in rows:
        span = [len(text), len(text) + len(written)]
        text += written
        ids = [source["id"] for source in sources]
        carried = dict(zip(ids, shares, strict=False))
        tokens.append({"text": written, "span": span, "p": 0.4 + min(0.59, max(bits or 0, 0) / 12), "bits": bits})
        tokens[-1] |= {"responsibility": carried, "certified": (1 if shares[0] > 0.9 else 0) if bits else None}
    by_id = {source["id"]: source for source in sources}
    citations = []
    for said, key, cited in cites:
        at, source = text.index(said), by_id[key]
        place = source["span"][0] + source["text"].index(cited)
        citations.append(
            {
                "span": [at, at + len(said)],
                "source": key,
                "source_span": [place, place + len(cited)],
                "cited_text": cited,
            }
            | {"responsibility": 0.97}
        )
    return {
        "question": question, "answer": text, "abstained": False, "reason": None, "seed": 0,
        "model": "smollm2-135m-instruct", "book": {"path": "/home/ada/notes/.openbook", "version": 7},
        "settings": {"persistence": 0.0, "passages": 5, "lambda_knn": 0.0},
        "sources": sources, "tokens": tokens, "citations": citations,
        "timings": {"retrieve_ms": 9.04, "first_token_ms": 80.2, "tokens_per_second": 210.3},
    }  # fmt: skip


def source_of(key: str, document: str, text: str, start: int, **more: Any) -> dict[str, Any]:
    """A passage source; figures it is not given are plausible ones."""
    place = {"id": key, "kind": "passage", "document": document, "title": document, "page": None, "line": None}
    place |= {"span": [start, start + len(text)], "text": text, "heading": "", "prior": 0.1, "refined": 0.02}
    return place | {"responsibility": 0.02, "bits": 0.3, "necessity": 0.1, "sufficiency": -31.0} | more


def closed(**more: Any) -> dict[str, Any]:
    """The closed book, with the few fields it has."""
    return {"id": "closed", "kind": "closed_book", "prior": 0.1, "responsibility": 0.06} | more


def sample() -> dict[str, Any]:
    """An answer of two sentences from two of three passages."""
    k = {"line": 12, "heading": "History › The comet of 2019", "prior": 0.61, "refined": 0.83, "responsibility": 0.71}
    k |= {"bits": 24.1, "necessity": 9.1, "sufficiency": -6.2}
    b = {"page": 3, "heading": "Bulletin 44", "prior": 0.19, "refined": 0.14, "responsibility": 0.2, "bits": 9.6}
    b |= {"necessity": 4.4, "sufficiency": -19.5}
    sources = [
        source_of("p1", "notes/karlsholt.md", KARLSHOLT, 310, **k),
        source_of("p2", "archive/bulletins/2019-autumn.pdf", BULLETIN, 5210, **b),
        source_of("p3", "denmark.md", DENMARK, 0, line=3),
        closed(refined=0.01),
    ]
    rows = [
        ("The", 0.1, 0.62, 0.12, 0.05, 0.21), (" comet", 0.4, 0.68, 0.15, 0.05, 0.12),
        (" team", 0.7, 0.8, 0.1, 0.04, 0.06), (" at", 0.1, 0.71, 0.1, 0.07, 0.12),
        (" Karl", 0.2, 0.75, 0.12, 0.05, 0.08), ("sholt", 0.0, 0.75, 0.12, 0.05, 0.08),
        (" was", 0.1, 0.75, 0.11, 0.06, 0.08), (" led", 0.6, 0.84, 0.07, 0.04, 0.05),
        (" by", 0.1, 0.84, 0.07, 0.04, 0.05), (" Dr", 4.1, 0.97, 0.01, 0.0, 0.02),
        (".", 0.1, 0.97, 0.01, 0.0, 0.02), (" Ingrid", 9.2, 0.995, 0.004, 0.001, 0.0),
        (" Vass", 7.3, 0.99, 0.005, 0.005, 0.0), (".", -0.4, 0.9, 0.04, 0.03, 0.03),
        (" It", 0.3, 0.4, 0.42, 0.08, 0.1), (" followed", 1.4, 0.2, 0.72, 0.03, 0.05),
        (" the", 0.2, 0.3, 0.6, 0.04, 0.06), (" tail", 1.2, 0.33, 0.62, 0.02, 0.03),
        (" to", 0.8, 0.22, 0.74, 0.02, 0.02), (" ", 0.1, 0.3, 0.66, 0.02, 0.02),
        ("4", 3.3, 0.45, 0.54, 0.0, 0.01), (".", 0.2, 0.46, 0.53, 0.0, 0.01),
        ("7", 2.9, 0.44, 0.56, 0.0, 0.0), (" million", 2.2, 0.42, 0.57, 0.0, 0.01),
        (" kilometres", 1.6, 0.41, 0.56, 0.01, 0.02), (",", 0.1, 0.3, 0.64, 0.02, 0.04),
        (" give", 2.4, 0.04, 0.9, 0.02, 0.04), (" or", 0.3, 0.05, 0.88, 0.02, 0.05),
        (" take", 0.3, 0.05, 0.88, 0.02, 0.05), (" ", 0.0, 0.05, 0.88, 0.02, 0.05),
        ("0", 4.6, 0.01, 0.98, 0.0, 0.01), (".", 0.1, 0.01, 0.98, 0.0, 0.01),
        ("2", 3.8, 0.0, 0.99, 0.0, 0.01), (" million", 0.5, 0.02, 0.95, 0.01, 0.02),
        (".", 0.1, 0.2, 0.7, 0.05, 0.05),
    ]  # fmt: skip
    cites = [
        ("The comet team at Karlsholt was led by Dr. Ingrid Vass", "p1", "the team was led by Dr. Ingrid Vass"),
        ("followed the tail to 4.7 million kilometres", "p1", "a comet tail of 4.7 million kilometres"),
        ("followed the tail to 4.7 million kilometres", "p2", "The tail was followed to 4.7 million kilometres"),
        ("give or take 0.2 million", "p2", "with an uncertainty of 0.2 million"),
    ]
    return answer_of("Who led the comet team at Karlsholt, and how long was the tail?", rows, sources, cites)
