"""Options that several commands share, and the settings they make."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from openbook.config import Config
    from openbook.lm.model import LanguageModel

OUTPUT, MODEL, WRITING = "Output", "How the model runs", "How it is written"

# An empty metavar keeps typer from writing <bool> beside a flag.
Book = Annotated[Path | None, typer.Option("--book", "-b", metavar="DIR", help="The book's folder; else ./.openbook.")]
Docs = Annotated[
    Path | None,
    typer.Option("--docs", "-d", metavar="PATH", help="A folder or file: make or refresh a book for it, and use that."),
]
At = Annotated[
    str | None, typer.Option("--at", metavar="VERSION", help="The book as it was at a version or tag; else as it is.")
]
Model = Annotated[
    str | None, typer.Option("--model", "-m", metavar="M", help="A name, .gguf file or model folder; else smollm2.")
]
MaxTokens = Annotated[
    int | None, typer.Option(metavar="N", help="Write at most so many; else 64.", rich_help_panel=WRITING)
]
Temperature = Annotated[
    float | None,
    typer.Option(metavar="T", help="Above 0 words are drawn; else 0: the likeliest.", rich_help_panel=WRITING),
]
TopP = Annotated[
    float | None, typer.Option(metavar="P", help="Draw from the likeliest that make up P.", rich_help_panel=WRITING)
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(
        metavar="θ", help="Above 1 a word that was written is less likely again; else 1.", rich_help_panel=WRITING
    ),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="End before this text; more than once.", rich_help_panel=WRITING),
]
CutRepeats = Annotated[
    bool | None,
    typer.Option(
        "--cut-repeats/--no-cut-repeats",
        metavar="",
        help="End where it repeats itself over and over, and withdraw the repeats; else on.",
        rich_help_panel=WRITING,
    ),
]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Same seed, same answer; else 0.", rich_help_panel=WRITING)]
Precision = Annotated[
    str | None, typer.Option(metavar="KIND", help="auto, bf16, fp32 or int8; else auto.", rich_help_panel=MODEL)
]
Backend = Annotated[
    str | None,
    typer.Option(metavar="KIND", help="native, torch, or auto: native where it can.", rich_help_panel=MODEL),
]
KvCodec = Annotated[
    str | None,
    typer.Option(metavar="KIND", help="Keep keys and values raw, in int8 or int4; else raw.", rich_help_panel=MODEL),
]
KvLayout = Annotated[
    str | None,
    typer.Option(metavar="KIND", help="Keep them dense, in a ring or paged; else auto.", rich_help_panel=MODEL),
]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="One JSON document instead.", rich_help_panel=OUTPUT)]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write the evidence to a web page.", rich_help_panel=OUTPUT),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write the answer with its evidence as the ending says: .md .html .svg .png .txt.",
        rich_help_panel=OUTPUT,
    ),
]


def model_of(config: Config, name: str) -> LanguageModel:
    """The model of this name or path, run as the settings say."""
    from openbook.lm.cache.make import CacheSpec
    from openbook.lm.model import load_model

    cache = CacheSpec(config.kv_layout, config.kv_codec)
    return load_model(name, precision=config.precision, backend=config.backend, cache=cache)


def configure(**given: Any) -> Config:
    """The settings of this run: options given (None: not) over environment over openbook.toml over defaults."""
    from openbook.config import BadOption, load_config

    try:
        config = load_config(**given)
    except BadOption as error:
        raise typer.BadParameter(str(error)) from error
    if config.threads:
        os.environ["OMP_NUM_THREADS"] = str(config.threads)  # read when torch is imported, which is after this
    return config


def size(option: str, value: str) -> int:
    """Bytes of an option's value like `500MB` or `2GiB`."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(value))
    except ValidationError as error:
        raise typer.BadParameter(f"{option} is {value!r}; say it like 500MB, 2GB or 2GiB") from error
