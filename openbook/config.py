"""Settings of the command line: its options over `OPENBOOK_*` over `openbook.toml` over the defaults.

`OPENBOOK_HOME`, where models and made books are kept, is not one of them: see `openbook.home`.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ByteSize, Field, FiniteFloat, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from openbook.errors import Fault

FILE = "openbook.toml"
PREFIX = "OPENBOOK_"


class BadOption(Fault):
    """A value given on the command line that cannot be used: bad usage."""


Share = Annotated[FiniteFloat, Field(ge=0, le=1)]


def _one_or_more(value: Any) -> Any:
    """A text alone, as a variable gives it, is a list of one."""
    return (value,) if isinstance(value, str) else value


class Config(BaseSettings):
    """Every setting by name. None: the library's own default (`openbook.mix.settings`) stands."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, toml_file=FILE, extra="forbid", frozen=True
    )

    book: Path = Path(".openbook")
    model: str | None = None
    encoder: str | None = None
    precision: Literal["auto", "bf16", "fp32", "int8"] = "auto"
    backend: Literal["auto", "native", "torch"] = "auto"
    kv_layout: Literal["auto", "dense", "ring", "paged"] = "auto"
    kv_codec: Literal["raw", "int8", "int4"] = "raw"
    kv_memory: ByteSize | None = None
    kv_disk: ByteSize | None = None
    chat_memory: ByteSize | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    persistence: Share | None = None
    passages: Annotated[int, Field(ge=1, le=64)] | None = None
    rerank: Annotated[int, Field(ge=1, le=256)] | None = None
    reranker: str | None = None
    paths: str | None = None
    hops: Annotated[int, Field(ge=2, le=4)] | None = None
    answers: Annotated[int, Field(ge=1, le=16)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    cap: Annotated[Share, Field(gt=0)] | None = None
    margin: FiniteFloat | None = None
    anyway: bool = False
    temperature: Annotated[FiniteFloat, Field(ge=0)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_p: Annotated[Share, Field(gt=0)] | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[FiniteFloat, Field(gt=0)] | None = None
    beams: Annotated[int, Field(ge=1, le=64)] | None = None
    length_penalty: Annotated[FiniteFloat, Field(ge=-10, le=10)] | None = None
    early_stopping: Literal["yes", "no", "never"] | None = None
    stop: Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_one_or_more)] = None
    json_schema: Path | None = None
    regex: str | None = None
    speculate: bool | None = None
    cut_repeats: bool | None = None
    robust: Annotated[int, Field(ge=0, le=31)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    lambda_knn: Annotated[FiniteFloat, Field(ge=0, lt=1)] | Literal["auto"] | None = None
    # Of `openbook serve`.
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    host_name: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_one_or_more)] = ()
    api_key: SecretStr | None = None
    api_key_file: Path | None = None
    rows: Annotated[int, Field(ge=1, le=4096)] = 192
    queue: Annotated[int, Field(ge=0, le=4096)] = 32
    upload_limit: ByteSize = ByteSize(256 << 20)
    time_limit: Annotated[FiniteFloat, Field(gt=0, le=86_400)] = 600.0
    drain: Annotated[int, Field(ge=0, le=3600)] = 30

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """First wins. No `.env`, no secrets folder: nobody asked for them to be read."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_config(**given: Any) -> Config:
    """The settings; `given` are those of the command line, None where an option was not.

    Raises `BadOption` for an option, `Fault` naming the variable, or the file and key, that cannot be used.
    """
    given = {name: value for name, value in given.items() if value is not None}
    try:
        config = Config(**given)
    except ValidationError as error:
        raise _fault(error, given) from error
    # A broken file: TOML's own errors and undecodable bytes are ValueErrors; both say where.
    except ValueError as error:
        raise Fault(f"{Path(FILE).absolute()} is not TOML: {error}") from error
    return config


def _fault(error: ValidationError, given: dict[str, Any]) -> Fault:
    first = error.errors()[0]
    name = str(first["loc"][0])
    file = Path(FILE).absolute()
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, Config.model_fields, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are: {', '.join(Config.model_fields)}"
        return Fault(f"{file}: unknown key {name!r}; {hint}")
    wrong = first["msg"].removeprefix("Input ")
    if first["type"] == "byte_size":
        wrong = "is no size; say it like 500MB, 2GB or 2GiB"
    reason = f"is {first['input']!r}; it {wrong}"
    if name in given:
        return BadOption(f"--{name.replace('_', '-')} {reason}")
    variable = next((v for v in os.environ if v.upper() == PREFIX + name.upper()), None)
    return Fault(f"{variable or f'{file}: {name}'} {reason}")
