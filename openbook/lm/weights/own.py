"""Any spec as a JSON object and back: the `config.json` of models that no other library has a family for.

    {"architectures": ["OpenbookForCausalLM"], "model_type": "openbook", "openbook": {"format": 1, "model": {…}}}

Under `openbook` stands the spec field by field, a rule as its name and parameters, a stack under `model`, an encoder
and decoder under `seq2seq`. All fields are written; on reading one that is absent has its default, so a field may be
added to the specs only with a default that changes nothing.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union

from openbook.errors import Fault
from openbook.lm.rules import Rule, SpecError
from openbook.lm.spec import LayerSpec, ModelSpec, Seq2SeqSpec
from openbook.lm.weights.config import MAX_LAYERS
from openbook.lm.weights.fields import MOST

FORMAT = 1
KEY = "openbook"
MODEL_TYPE = "openbook"
DECODER, ENCODER, SEQ2SEQ = "OpenbookForCausalLM", "OpenbookModel", "OpenbookForConditionalGeneration"
ARCHITECTURES = (DECODER, ENCODER, SEQ2SEQ)
MOST_ITEMS = 1 << 16  # of a list in a spec: labels, factors of a rule


def config_of(spec: ModelSpec | Seq2SeqSpec) -> dict[str, Any]:
    """The part of our `config.json` that says what the model is."""
    if isinstance(spec, Seq2SeqSpec):
        architecture, kind = SEQ2SEQ, "seq2seq"
    else:
        architecture, kind = DECODER if spec.head else ENCODER, "model"
    described = {"format": FORMAT, kind: to_json(spec)}
    return {"architectures": [architecture], "model_type": MODEL_TYPE, KEY: described}


def spec_of(described: object, where: str = "config.json") -> ModelSpec | Seq2SeqSpec:
    """The spec that the value of `openbook` in a config describes. Raises `Fault` naming the field that is wrong."""
    at = f"{where}: {KEY}"
    if not isinstance(described, dict):
        raise Fault(f"{at} is {_shown(described)}, not an object; it says what the model is")
    version = described.get("format")
    if type(version) is not int or version != FORMAT:
        raise Fault(
            f"{at}.format is {_shown(version)}; this openbook reads {FORMAT}: update openbook, or convert again"
        )
    kinds: dict[str, Any] = {"model": ModelSpec, "seq2seq": Seq2SeqSpec}
    given = sorted(set(described) - {"format"})
    if len(given) != 1 or given[0] not in kinds:
        raise Fault(f"{at} holds {', '.join(map(_shown, given)) or 'no spec'}; it must hold one of model and seq2seq")
    spec: ModelSpec | Seq2SeqSpec = _read(described[given[0]], kinds[given[0]], f"{at}.{given[0]}")
    return spec


def to_json(value: Any) -> Any:
    """A spec, or a part of one, as plain JSON values."""
    if isinstance(value, Rule):
        return {"name": value.name, "parameters": {name: to_json(given) for name, given in value.parameters}}
    if is_dataclass(value):
        return {each.name: to_json(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        return [to_json(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"a spec holds {value}, which JSON has no number for; give a finite one")
    return value


def _read(value: object, wanted: Any, at: str) -> Any:
    """`value` as the type `wanted` says: a dataclass, Rule, tuple, Literal, union with None, or plain value."""
    origin = typing.get_origin(wanted)
    if origin in (Union, types.UnionType):
        return _read_one_of(value, typing.get_args(wanted), at)
    if origin is Literal:
        choices = typing.get_args(wanted)
        if not isinstance(value, str) or value not in choices:
            raise Fault(f"{at} is {_shown(value)}; it must be one of {', '.join(choices)}")
        return value
    if origin is tuple:
        return _read_list(value, typing.get_args(wanted)[0], at)
    if wanted is Rule:
        return _read_rule(value, at)
    if is_dataclass(wanted):
        return _read_fields(value, wanted, at)
    return _read_plain(value, wanted, at)


def _read_one_of(value: object, choices: tuple[Any, ...], at: str) -> Any:
    if value is None:
        if types.NoneType not in choices:
            raise Fault(f"{at} is null; it must have a value")
        return None
    real = [choice for choice in choices if choice is not types.NoneType]
    names = set(value) if isinstance(value, dict) else set()
    # Of two kinds of feed-forward it is the one that has more of the given fields.
    likeliest = max(real, key=lambda kind: len(names & set(_kinds(kind))) if len(real) > 1 else 0)
    return _read(value, likeliest, at)


def _read_list(value: object, each: Any, at: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise Fault(f"{at} is {_shown(value)}, not a list")
    most = MAX_LAYERS if each is LayerSpec else MOST_ITEMS
    if len(value) > most:
        raise Fault(f"{at} has {len(value)} items; at most {most} are read")
    return tuple(_read(item, each, f"{at}[{index}]") for index, item in enumerate(value))


def _read_fields(value: object, wanted: Any, at: str) -> Any:
    given = _object(value, at)
    kinds = _kinds(wanted)
    for name in given:
        if name not in kinds:
            raise Fault(f"{at}.{_name(name)} is a field openbook does not know, and it may change the arithmetic")
    for each in fields(wanted):
        if each.name not in given and each.default is MISSING and each.default_factory is MISSING:
            raise Fault(f"{at}.{each.name} is missing")
    read = {name: _read(item, kinds[name], f"{at}.{name}") for name, item in given.items()}
    try:
        return wanted(**read)
    except SpecError as error:
        raise Fault(f"{at}: {error}") from error


def _read_rule(value: object, at: str) -> Rule:
    given = _object(value, at)
    if set(given) != {"name", "parameters"}:
        raise Fault(f"{at} must hold name and parameters, not {', '.join(map(_name, given)) or 'nothing'}")
    name, parameters = given["name"], _object(given["parameters"], f"{at}.parameters")
    if not isinstance(name, str):
        raise Fault(f"{at}.name is {_shown(name)}, not a string")
    read = {key: _parameter(item, f"{at}.parameters.{_name(key)}") for key, item in parameters.items()}
    return Rule(name, tuple(sorted(read.items())))


def _parameter(value: object, at: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, list):
        return _read_list(value, float, at)
    return _number(value, at)


def _read_plain(value: object, wanted: type, at: str) -> Any:
    if wanted is float:
        return float(_number(value, at))
    if wanted is int:
        number = _number(value, at)
        if not isinstance(number, int) or abs(number) > MOST:
            raise Fault(f"{at} is {number}, not a whole number of at most {MOST}")
        return number
    if not isinstance(value, wanted):
        raise Fault(f"{at} is {_shown(value)}, not {'true or false' if wanted is bool else 'a string'}")
    return value


def _number(value: object, at: str) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Fault(f"{at} is {_shown(value)}, not a number")
    if abs(value) > 1 << 53 if isinstance(value, int) else not math.isfinite(value):
        raise Fault(f"{at} is {_shown(value)}, which is too large or no number")
    return value


def _object(value: object, at: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Fault(f"{at} is {_shown(value)}, not an object")
    return value


@cache
def _kinds(spec: type) -> dict[str, Any]:
    """The type of each field of a spec, its strings of annotations resolved."""
    return typing.get_type_hints(spec)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _name(name: str) -> str:
    return name if name.isprintable() and len(name) <= 60 else _shown(name)
