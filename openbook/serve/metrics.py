"""What is counted, in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Counts:
    """Requests by route and status, and answers that could not be kept. No question or name of a document is here."""

    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    unkept: int = 0


def exposition(counts: Counts, engines: Mapping[str, Mapping[str, Any]], books: Mapping[str, tuple[int, int]]) -> str:
    """The text of /metrics, of models and books by name: what an engine counts; a live version, its passages."""
    return "\n".join([*_http(counts), *_engines(engines), *_books(books)]) + "\n"


def _http(counts: Counts) -> Iterator[str]:
    yield from _head("openbook_http_requests_total", "counter", "Requests that were answered.")
    for (method, route, status), count in sorted(counts.requests.items()):
        labels = f'method="{_quoted(method)}",route="{_quoted(route)}",status="{status}"'
        yield f"openbook_http_requests_total{{{labels}}} {count}"
    yield from _head("openbook_answers_unkept_total", "counter", "Answers given that could not be kept.")
    yield f"openbook_answers_unkept_total {counts.unkept}"


GAUGES = {
    "waiting": "Questions in the queue.",
    "running": "Questions at work.",
    "rows": "Branches at work.",
    "kept_bytes": "Keys and values of what chats begin with.",
}
COUNTERS = {
    "requests": "Questions let in or queued.",
    "refused": "Questions refused because the queue was full.",
    "tokens": "Tokens written.",
    "steps": "Forwards of the model.",
    "read_tokens": "Tokens of chats' prompts that were read.",
    "found_tokens": "Tokens of chats' prompts that were kept from others.",
}


def _engines(engines: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    of = {f'model="{_quoted(name)}"': stats for name, stats in engines.items()}
    for name, help in GAUGES.items():
        yield from _head(f"openbook_engine_{name}", "gauge", help)
        for model, stats in of.items():
            yield f"openbook_engine_{name}{{{model}}} {stats.get(name, 0)}"
    for name, help in COUNTERS.items():
        yield from _head(f"openbook_engine_{name}_total", "counter", help)
        for model, stats in of.items():
            yield f"openbook_engine_{name}_total{{{model}}} {stats.get(name, 0)}"
    yield from _head("openbook_first_token_seconds", "histogram", "From a question's arrival to its first token.")
    for model, stats in of.items():
        yield from _histogram("openbook_first_token_seconds", model, stats["first_token"])


def _histogram(name: str, labels: str, counted: Mapping[str, Any]) -> Iterator[str]:
    below = 0
    for bound, count in zip(counted["bounds"], counted["counts"], strict=False):
        below += count
        yield f'{name}_bucket{{{labels},le="{bound:g}"}} {below}'
    whole = sum(counted["counts"])
    yield f'{name}_bucket{{{labels},le="+Inf"}} {whole}'
    yield f"{name}_sum{{{labels}}} {counted['sum']:.6f}"
    yield f"{name}_count{{{labels}}} {whole}"


def _books(books: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    for at, (name, help) in enumerate((("version", "The live version of a book."), ("passages", "Its passages."))):
        yield from _head(f"openbook_book_{name}", "gauge", help)
        for book, facts in books.items():
            yield f'openbook_book_{name}{{book="{_quoted(book)}"}} {facts[at]}'


def _head(name: str, kind: str, help: str) -> Iterator[str]:
    yield f"# HELP {name} {help}"
    yield f"# TYPE {name} {kind}"


def _quoted(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
