"""One runner for several threads: each has a seat."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from openbook.lm.backends.runner import Hidden, Runner
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.prefixes import Prefix


class Left(Exception):
    """Raised in the thread whose seat was left, at its next forward."""


class Shared:
    """A runner that several threads use, each from a seat of its own."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.steps = 0

    def seat(self) -> Seat:
        """A seat for one thread."""
        return Seat(self)

    def stats(self) -> dict[str, Any]:
        """Forwards so far."""
        return {"steps": self.steps}


class Seat:
    """A `Runner`, for one thread."""

    def __init__(self, shared: Shared) -> None:
        self._shared, runner = shared, shared.runner
        self.spec, self.dtype, self.device, self.caching = runner.spec, runner.dtype, runner.device, runner.caching
        self.batch_invariant = runner.batch_invariant
        self._left = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shared.runner, name)  # what a backend says besides: its arithmetic

    def __enter__(self) -> Seat:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """From any thread: the next forward asked for from this seat raises `Left`."""
        self._left = True

    def _here(self) -> Runner:
        if self._left:
            raise Left("this seat was left")
        self._shared.steps += 1
        return self._shared.runner

    def alone(self) -> AbstractContextManager[None]:
        return self._shared.runner.alone()

    def cache(self, prefixes: Sequence[Prefix | None], room: int) -> Cache:
        return self._shared.runner.cache(prefixes, room)

    def forward(
        self,
        tokens_BT: Tensor,
        cache: Cache | None = None,
        *,
        positions_BT: Tensor | None = None,
        keep: slice | Sequence[int] = slice(None),
        tap_BTM: Tensor | None = None,
    ) -> Tensor:
        return self._here().forward(tokens_BT, cache, positions_BT=positions_BT, keep=keep, tap_BTM=tap_BTM)

    def hidden(self, tokens_BT: Tensor, cache: Cache | None = None, *, positions_BT: Tensor | None = None) -> Hidden:
        return self._here().hidden(tokens_BT, cache, positions_BT=positions_BT)

    def read(self, tokens_BT: Tensor, cache: Cache, *, positions_BT: Tensor | None = None) -> Tensor:
        return self._here().read(tokens_BT, cache, positions_BT=positions_BT)

    def prefill(self, text: Sequence[int]) -> Prefix:
        return self._here().prefill(text)
