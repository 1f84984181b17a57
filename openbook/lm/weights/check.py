"""Reading all of a checkpoint to see that it is sound: no NaN, nothing infinite, a tokenizer that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from openbook.errors import Fault
from openbook.lm.spec import ModelSpec, Seq2SeqSpec
from openbook.lm.weights.checkpoint import Checkpoint
from openbook.lm.weights.matching import MOST_NAMES, collapsed

Progress = Callable[[int, int, str], None]
AT_ONCE = 1 << 22  # weights looked at in one go, so that looking needs little memory beside the tensor


@dataclass(frozen=True)
class Report:
    """What was found: `tensors` read; of those with weights that are not finite, (NaN, infinite) by the file's name;
    what is wrong with the tokenizer, if something is."""

    tensors: int
    not_finite: dict[str, tuple[int, int]]
    tokenizer: str | None

    @property
    def problem(self) -> str | None:
        """All that is wrong, in one line; None if nothing is."""
        said = [] if self.tokenizer is None else [self.tokenizer]
        if self.not_finite:
            names = collapsed(self.not_finite)
            rest = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
            said.append(
                f"{len(self.not_finite)} of {self.tensors} tensors have weights that are NaN or infinite: "
                f"{', '.join(names[:MOST_NAMES])}{rest}; download it again, or take another"
            )
        return "; ".join(said) or None


def check(checkpoint: Checkpoint, progress: Progress | None = None) -> Report:
    """Read every tensor that the model is made of, one at a time, as fp32. `progress` is told (done, in all, name)."""
    names = list(dict.fromkeys(name for made in checkpoint.made.values() for name in made.names.values()))
    found = {}
    for index, name in enumerate(names):
        if progress is not None:
            progress(index, len(names), name)
        bad = _not_finite(checkpoint.source.tensor(name, torch.float32))
        if any(bad):
            found[name] = bad
    return Report(len(names), found, _of_tokenizer(checkpoint))


def _not_finite(tensor: torch.Tensor) -> tuple[int, int]:
    """How many weights are NaN, and how many infinite."""
    nan = infinite = 0
    for part in torch.split(tensor.flatten(), AT_ONCE):
        if not part.isfinite().all():
            nan += int(part.isnan().sum())
            infinite += int(part.isinf().sum())
    return nan, infinite


def _of_tokenizer(checkpoint: Checkpoint) -> str | None:
    """Why the tokenizer cannot be used with these weights."""
    spec = checkpoint.spec
    reads: ModelSpec = spec.encoder if isinstance(spec, Seq2SeqSpec) else spec
    try:
        if checkpoint.format == "gguf" or reads.head:
            tokens = checkpoint.tokenizer().vocabulary
        else:
            from openbook.lm.encoder import pieces_of

            pieces_of(checkpoint, reads)
            return None
    except Fault as fault:
        return str(fault)
    if tokens > reads.vocabulary:
        return f"its tokenizer has {tokens} tokens, its weights have {reads.vocabulary}; they are not of one model"
    return None
