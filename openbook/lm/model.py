"""A language model ready to use: weights in a backend, tokenizer, chat template, name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from openbook.errors import Fault
from openbook.lm.backends.runner import Runner
from openbook.lm.cache.make import AUTO, CacheSpec
from openbook.lm.spec import ModelSpec, SpecError
from openbook.lm.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from openbook.lm.decoding.constrain import Guides
    from openbook.lm.decoding.spelt import Spelt
    from openbook.lm.weights.checkpoint import Checkpoint

DEFAULT = "smollm2"
Precision = Literal["auto", "bf16", "fp32", "int8"]
Backend = Literal["auto", "native", "torch"]


@dataclass(frozen=True)
class LanguageModel:
    """What `load_model` returns. `fingerprint` names weights, backend, precision and codec: keys of caches carry it.

    `served` says which backend runs it, and why if it is not the one that is preferred.
    """

    name: str
    runner: Runner
    tokenizer: Tokenizer
    fingerprint: str
    served: str = "torch"
    origin: LanguageModel | None = field(default=None, repr=False, compare=False)

    def at(self, runner: Runner) -> LanguageModel:
        """The same model on another runner of it, as `openbook.lm.backends.shared` gives each thread one."""
        return replace(self, runner=runner, origin=self.origin or self)

    @property
    def spec(self) -> ModelSpec:
        """What kind of transformer it is."""
        return self.runner.spec

    @cached_property
    def guides(self) -> Guides:
        """The vocabulary made ready for constrained writing (`openbook.lm.decoding.constrain`)."""
        from openbook.lm.decoding.constrain import Guides

        if self.origin is not None:
            return self.origin.guides
        return Guides(self.tokenizer)

    @cached_property
    def spelt(self) -> Spelt:
        """The vocabulary made ready to be read over bytes (`openbook.lm.decoding.bytewise`)."""
        from openbook.lm.decoding.spelt import Spelt

        if self.origin is not None:
            return self.origin.spelt
        return Spelt(self.tokenizer, self.spec.vocabulary)


def load_model(
    name: str | Path = DEFAULT,
    *,
    precision: Precision = "auto",
    backend: Backend = "auto",
    device: str | None = None,
    fetch: bool = True,
    cache: CacheSpec = AUTO,
) -> LanguageModel:
    """A model by name (`smollm2`), GGUF file, or folder of safetensors + config.json.

    `backend` `auto` is native on a CPU wherever the kernels are installed and can run the model, else torch. Under
    `precision` `auto` native weights stay as the file packs them and torch's are bf16 where the device multiplies it,
    else fp32; `int8` packs floats into 8 bits, natively only. `cache` says how keys and values are kept. Raises `Fault`
    for what cannot be read, `SpecError` for what cannot be built.
    """
    from openbook.lm.device import device_named, dtype_named
    from openbook.lm.weights.checkpoint import open_checkpoint
    from openbook.lm.weights.pull import locate

    target = device_named(device)
    if precision != "int8":
        dtype_named(precision, target)  # refuses a name that is none, before anything is opened
    checkpoint = open_checkpoint(locate(name, fetch=fetch))
    checkpoint.opened_by("load_model")
    spec = cast("ModelSpec", checkpoint.spec)
    tokenizer = checkpoint.tokenizer()
    if tokenizer.vocabulary > spec.vocabulary:
        raise Fault(
            f"{checkpoint.path}: its tokenizer has {tokenizer.vocabulary} tokens, its weights have "
            f"{spec.vocabulary}; they are not of one model"
        )
    native, why = _choose(backend, precision, target, spec)
    runner, tag = (_native if native else _torch)(checkpoint, spec, precision, target, cache)
    tag += "" if cache.codec == "raw" else f"-{cache.codec}"
    return LanguageModel(checkpoint.name, runner, tokenizer, f"{checkpoint.fingerprint}-{tag}", why)


def _choose(backend: Backend, precision: Precision, device: torch.device, spec: ModelSpec) -> tuple[bool, str]:
    """Whether the native backend runs it, and what is to be said of that."""
    from openbook.lm.backends.native_build import against

    if backend not in ("auto", "native", "torch"):
        raise Fault(f"no backend is called {backend!r}; known are auto, native, torch")
    why = against(spec, device) if backend != "torch" else "torch was asked for"
    if backend == "native" and why is not None:
        raise SpecError(f"the native backend cannot run this model: {why}; use backend torch")
    if precision == "int8" and why is not None:
        raise Fault(f"precision int8 is the native backend's: {why}; use precision auto")
    if why is None and backend == "auto" and precision == "fp32":
        why = "fp32 was asked for, of which it is the reference"
    return why is None, "native" if why is None else f"torch: {why}"


def _native(
    checkpoint: Checkpoint, spec: ModelSpec, precision: Precision, device: torch.device, cache: CacheSpec
) -> tuple[Runner, str]:
    from openbook.lm.backends.native import NativeRunner

    runner = NativeRunner(spec, checkpoint.packed(), cache, precision=precision)
    return runner, f"native-{precision}-{runner.isa}"


def _torch(
    checkpoint: Checkpoint, spec: ModelSpec, precision: Precision, device: torch.device, cache: CacheSpec
) -> tuple[Runner, str]:
    from openbook.lm.backends.torch import TorchRunner
    from openbook.lm.device import dtype_named

    dtype = dtype_named(precision, device)
    return TorchRunner.load(spec, checkpoint.state(dtype), device, cache), str(dtype).removeprefix("torch.")
