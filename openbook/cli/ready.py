"""From settings to who answers: how it is to be written, and the book, encoder and model, ready."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openbook.cli import options
from openbook.cli.books import check_there, open_for
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.config import Config
    from openbook.lm.decoding.beam import Beams
    from openbook.lm.decoding.constrain import Constraint
    from openbook.mix.reading import Reader
    from openbook.mix.rerank import Rerank
    from openbook.mix.settings import Settings


def settings_of(config: Config) -> Settings:
    """How to ask: what was set over the library's defaults."""
    from openbook.lm.decoding.sampling import Sampling
    from openbook.mix.settings import Settings

    def chosen(*names: str) -> dict[str, Any]:
        return {name: getattr(config, name) for name in names if getattr(config, name) is not None}

    drawn = chosen("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    believed = chosen(
        "persistence",
        "passages",
        "max_tokens",
        "cap",
        "margin",
        "stop",
        "speculate",
        "cut_repeats",
        "lambda_knn",
        "answers",
    )
    settings = replace(
        Settings(),
        rerank=_rerank(config),
        **_paths(config),
        sampling=replace(Sampling(), **drawn),
        beams=_beams(config),
        constraint=_constraint(config),
        **believed,
    )
    if config.robust is not None:
        if config.persistence:
            raise Fault(f"persistence {config.persistence:g} lets passages earn weight; with robust it can only be 0")
        settings = settings.robustly(config.robust)
    return replace(settings, margin=None) if config.anyway else settings


def _rerank(config: Config) -> Rerank | None:
    from openbook.mix.rerank import Rerank, rerankers

    if config.rerank is None and config.reranker is None:
        return None
    pool = Rerank().pool if config.rerank is None else config.rerank
    by = config.reranker or Rerank().by
    if by in rerankers() and by != "cross-encoder":
        return Rerank(pool, by)
    folder = Path(by).expanduser()
    if not folder.is_dir():
        raise Fault(f"reranker {by!r} is neither likelihood nor the folder of a cross-encoder")
    return Rerank(pool, "cross-encoder", folder)


def _paths(config: Config) -> dict[str, Any]:
    """`hops` alone asks for sets."""
    if config.hops is not None and config.paths not in (None, "sets", "graph"):
        raise Fault(f"hops are of sets of passages or of a graph; leave them out, or the paths {config.paths!r}")
    kind = config.paths or ("single" if config.hops is None else "sets")
    return {"paths": kind} | ({} if config.hops is None else {"hops": config.hops})


def _beams(config: Config) -> Beams | None:
    from openbook.lm.decoding.beam import Beams

    if config.beams is None or config.beams == 1:
        for name in ("length_penalty", "early_stopping"):
            if getattr(config, name) is not None:
                raise Fault(f"{name} is of a search with beams; give beams=2 or more too, or leave it out")
        return None
    early = {None: False, "no": False, "yes": True, "never": "never"}[config.early_stopping]
    penalty = Beams().length_penalty if config.length_penalty is None else config.length_penalty
    return Beams(config.beams, penalty, early)  # type: ignore[arg-type]


def _constraint(config: Config) -> Constraint | None:
    from openbook.lm.decoding.constrain import LONGEST, Constraint

    if config.json_schema is None:
        return None if config.regex is None else Constraint("regex", config.regex)
    if config.regex is not None:
        raise Fault("a JSON schema and a regular expression are both demanded; give one of them")
    path = config.json_schema.expanduser()
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
    except (OSError, ValueError) as error:
        raise Fault(f"the JSON schema {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return Constraint("json_schema", text)


def reader_for(config: Config, docs: Path | None, at: str | None = None) -> Reader:
    """Book (at a version, else the live one), encoder and model, ready.

    The model comes first: a person whose model is broken should not wait for a folder to be read before that is said.
    A book that need not be read is opened meanwhile, in a thread, with its encoder.
    """
    from openbook.cli.models import here

    check_there(config, docs, at)
    settings = settings_of(config)  # what cannot be asked is said before anything is read
    name = here(config.model or "smollm2")
    from openbook.mix.reading import Reader, passage_cache

    if docs is not None:
        model = options.model_of(config, name)
        book, encoder = open_for(config, docs)
    else:
        _import_shared()
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(open_for, config, docs, at)
            model = options.model_of(config, name)
            book, encoder = opening.result()
    return Reader(book, model, encoder, settings, passage_cache(book, model, config.kv_memory, config.kv_disk))


def _import_shared() -> None:
    """What both threads need is imported by one: two that import the same circle can meet it half made."""
    import openbook.book.retrieve
    import openbook.lm.encoder
    import openbook.lm.model
    import openbook.lm.tokenizer
    import openbook.lm.weights.checkpoint  # noqa: F401
