"""A language model ready to use: weights in a backend, tokenizer, chat template, name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from openbook.errors import Fault
from openbook.lm.backends.runner import Runner
from openbook.lm.cache.make import AUTO, CacheSpec
from openbook.lm.spec import ModelSpec
from openbook.lm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from openbook.lm.decoding.constrain import Guides

DEFAULT = "smollm2"
Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True)
class LanguageModel:
    """What `load_model` returns. `fingerprint` names weights, precision and codec: keys of caches carry it."""

    name: str
    runner: Runner
    tokenizer: Tokenizer
    fingerprint: str

    @property
    def spec(self) -> ModelSpec:
        """What kind of transformer it is."""
        return self.runner.spec

    @cached_property
    def guides(self) -> Guides:
        """The vocabulary made ready for constrained writing (`openbook.lm.decoding.constrain`)."""
        from openbook.lm.decoding.constrain import Guides

        return Guides(self.tokenizer)


def load_model(
    name: str | Path = DEFAULT,
    *,
    precision: Precision = "auto",
    device: str | None = None,
    fetch: bool = True,
    cache: CacheSpec = AUTO,
) -> LanguageModel:
    """A model by name (`smollm2`), GGUF file, or folder of safetensors + config.json.

    `precision` `auto` is bf16 where the device multiplies it natively, else fp32. `cache` says how keys and values are
    kept. Raises `Fault` for what cannot be read, `SpecError` for what cannot be built.
    """
    from openbook.lm.backends.torch import TorchRunner
    from openbook.lm.device import device_named, dtype_named
    from openbook.lm.weights.checkpoint import open_checkpoint
    from openbook.lm.weights.pull import locate

    target = device_named(device)
    dtype = dtype_named(precision, target)
    checkpoint = open_checkpoint(locate(name, fetch=fetch))
    checkpoint.opened_by("load_model")
    spec = cast("ModelSpec", checkpoint.spec)
    tokenizer = checkpoint.tokenizer()
    if tokenizer.vocabulary > spec.vocabulary:
        raise Fault(
            f"{checkpoint.path}: its tokenizer has {tokenizer.vocabulary} tokens, its weights have "
            f"{spec.vocabulary}; they are not of one model"
        )
    runner = TorchRunner.load(spec, checkpoint.state(dtype), target, cache)
    tag = str(dtype).removeprefix("torch.") + ("" if cache.codec == "raw" else f"-{cache.codec}")
    return LanguageModel(checkpoint.name, runner, tokenizer, f"{checkpoint.fingerprint}-{tag}")
