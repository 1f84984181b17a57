"""Names by spaCy, where it and a model of the document's language are installed: `pip install openbook[spacy]`, and one
of spaCy's models, which are on no package index (https://github.com/explosion/spacy-models/releases).

Names are the model's entities, without those that only count or date; phrases are its noun chunks, where the model
parses. A document in a language without a model is extracted as in print.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from openbook.book.graph.builtin import built_in
from openbook.book.graph.extract import NAME, PHRASE, Found, extractor
from openbook.book.manifest import BookFault

GENRES = ("core_web", "core_news", "ent_wiki")
SIZES = ("trf", "lg", "md", "sm")
"""The better of several models that are installed is taken."""
LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "ru", "zh", "xx")
COUNTED = frozenset({"DATE", "TIME", "PERCENT", "MONEY", "QUANTITY", "ORDINAL", "CARDINAL"})


def installed() -> str:
    """Names all that decides what this extractor finds; `BookFault` where spaCy or every model of it is missing."""
    if find_spec("spacy") is None:
        raise BookFault(
            "spaCy is not installed; install it with: pip install openbook[spacy] "
            "(or go back: openbook graph --extract built-in)"
        )
    found = [name for language in LANGUAGES if (name := _package(language))]
    if not found:
        raise BookFault(
            "no model of spaCy is installed; install one, for example en_core_web_sm, from "
            "https://github.com/explosion/spacy-models/releases (or go back: openbook graph --extract built-in)"
        )
    return " ".join(["spacy", version("spacy"), *(f"{name}-{_version(name)}" for name in found)])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return str(getattr(import_module(name), "__version__", "?"))


@cache
def _package(language: str) -> str | None:
    names = (f"{language}_{genre}_{size}" for size in SIZES for genre in GENRES)
    return next((name for name in names if find_spec(name) is not None), None)


@cache
def _model(language: str) -> Any:
    name = _package(language) or _package("xx")
    return None if name is None else import_module(name).load()


@extractor("spacy")
def by_spacy(sentence: str, language: str) -> list[Found]:
    """Entities and noun chunks of a model for the language."""
    model = _model(language)
    if model is None:
        return list(built_in(sentence, language))
    parsed = model(sentence)
    names = [Found(e.start_char, e.end_char, NAME) for e in parsed.ents if e.label_ not in COUNTED]
    taken = {character for found in names for character in range(found.start, found.end)}
    chunks = parsed.noun_chunks if parsed.has_annotation("DEP") else ()
    for chunk in chunks:
        words = [token for token in chunk if not (token.is_stop or token.is_punct)]
        if words and taken.isdisjoint(range(words[0].idx, chunk.end_char)):
            names.append(Found(words[0].idx, chunk.end_char, PHRASE))
    return sorted(names)
