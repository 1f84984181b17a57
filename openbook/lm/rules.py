"""What can be added to attention without touching it: named rules, plain functions under a decorator.

A mask rule narrows who sees whom, a position bias says what a distance costs, a rope scaling stretches frequencies.
A `Rule` names one with its parameters, so that it stands in a frozen spec, is compared, hashed and stored as data.

    @mask_rule("chunked")
    def chunked(q_BT1, k_B1S, *, size): return q_BT1 // size == k_B1S // size

    AttentionSpec(heads=4, kv_heads=2, head_dim=8, rules=(rule("chunked", size=512),))
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from openbook.errors import Fault

Value = float | int | bool | tuple[float, ...] | None
Function = TypeVar("Function", bound=Callable[..., Any])


class SpecError(Fault, ValueError):
    """A description that cannot be a model; the message says why and what would fit."""


def require(holds: bool, problem: str) -> None:
    """Refuse a description: raise `SpecError(problem)` unless `holds`."""
    if not holds:
        raise SpecError(problem)


MOST = 3e38
"""What fp32 can hold, nearly."""


def finite(**numbers: float | None) -> None:
    """Refuse numbers that fp32 has no room for; NaN is one. None stands for a default."""
    for name, number in numbers.items():
        require(number is None or abs(number) <= MOST, f"{name} is {number}; it must be a finite number")


def one_of(kinds: object, **names: str) -> None:
    """Refuse names that are not of this `Literal`."""
    for field, name in names.items():
        known = typing.get_args(kinds)
        require(name in known, f"{field} is {name!r}; it must be one of {', '.join(known)}")


@dataclass(frozen=True)
class Rule:
    """A registered function by name, with the values of its keyword-only parameters."""

    name: str
    parameters: tuple[tuple[str, Value], ...] = ()

    def __getitem__(self, parameter: str) -> Any:
        """The value of one parameter."""
        return dict(self.parameters)[parameter]


def rule(name: str, **parameters: Value) -> Rule:
    """A rule with these parameters, in an order of their own so that equal rules are equal."""
    return Rule(name, tuple(sorted(parameters.items())))


class Registry:
    """Functions of one kind by name. `kind` is what an error calls them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._functions: dict[str, Callable[..., Any]] = {}
        self._checks: dict[str, Callable[..., None]] = {}

    def __call__(self, name: str, check: Callable[..., None] | None = None) -> Callable[[Function], Function]:
        """Register the decorated function; `check(**parameters)` raises `SpecError` for values that cannot be."""

        def register(function: Function) -> Function:
            self._functions[name] = function
            if check is not None:
                self._checks[name] = check
            return function

        return register

    @property
    def names(self) -> tuple[str, ...]:
        """What is registered."""
        return tuple(sorted(self._functions))

    def check(self, given: Rule) -> None:
        """Refuse a rule that is not registered, or whose parameters are not those of its function."""
        require(
            given.name in self._functions, f"no {self.kind} is called {given.name!r}; known are {', '.join(self.names)}"
        )
        signature = inspect.signature(self._functions[given.name]).parameters.values()
        wanted = {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY}
        values = {n: default for n, default in wanted.items() if default is not inspect.Parameter.empty}
        values |= dict(given.parameters)
        missing, unknown = set(wanted) - set(values), set(values) - set(wanted)
        require(
            not missing and not unknown,
            f"the {self.kind} {given.name} takes {', '.join(wanted) or 'no parameters'}"
            + (f"; missing: {', '.join(sorted(missing))}" if missing else "")
            + (f"; unknown: {', '.join(sorted(unknown))}" if unknown else ""),
        )
        kinds = _annotations(self._functions[given.name])
        for name, value in values.items():
            kind, fits = _KINDS.get(kinds.get(name), ("", None))
            require(fits is None or fits(value), f"{name} of the {self.kind} {given.name} is {value!r}; give {kind}")
        if given.name in self._checks:
            self._checks[given.name](**values)

    def call(self, given: Rule, *arguments: Any) -> Any:
        """The rule's function of these arguments and its parameters."""
        return self._functions[given.name](*arguments, **dict(given.parameters))


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of a function's parameters; none where its author wrote what cannot be looked up."""
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):
        return {}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# What a parameter may be, by its annotation. Values come from configs, so they may be of any kind.
_KINDS: dict[object, tuple[str, Callable[[Any], bool] | None]] = {
    float: ("a finite number", _number),
    int: ("a whole number", lambda value: type(value) is int),
    bool: ("true or false", lambda value: type(value) is bool),
    tuple[float, ...]: ("a list of finite numbers", lambda value: type(value) is tuple and all(map(_number, value))),
}

mask_rule = Registry("mask rule")
"""`f(q_BT1, k_B1S, **parameters) -> bool [B, T, S]`, positions in; may only narrow what is seen."""
position_bias = Registry("position bias")
"""`f(heads, **parameters) -> nn.Module` that maps distances q − k, `[B, T, S]`, to what is added, `[B, H, T, S]`."""
rope_scaling = Registry("rope scaling")
"""`f(rope, dims, longest, **parameters) -> (frequencies fp32 [dims/2], factor of the tables)`."""
