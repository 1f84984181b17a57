"""Chat templates: jinja2 from a checkpoint, run in a sandbox because a checkpoint comes from anywhere.

Immutable sandbox: no attributes that lead out, no changing of what it was given; products, powers and ranges are
bounded, and so is what it writes. A template that loops over a long message many times can still take a while.
There is no clock (`strftime_now`): the same messages give the same prompt on every day.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

from openbook.errors import Fault

Message = Mapping[str, Any]

MAX_TEMPLATE = 1 << 20  # characters
MAX_OUTPUT = 1 << 24  # characters
MAX_RANGE = 100_000  # numbers in all ranges of one rendering together
MAX_PRODUCT = 1 << 20  # length of a repeated string or list, and any factor of a product


def render(template: str | None, messages: Sequence[Message], add_generation_prompt: bool, **names: Any) -> str:
    """The prompt of `messages`, each with `role` and `content`; `names` are further variables of the template.

    Without a template: `Role: content` paragraphs, then `Assistant:`. Raises `Fault` with the template's own words
    where it refuses the messages, and jinja's where it is wrong.
    """
    for message in messages:
        if not isinstance(message.get("role"), str):
            raise Fault("a chat message has no role; give each a role (system, user or assistant) and content")
    if template is None:
        return plain(messages, add_generation_prompt)
    variables = {"messages": [dict(m) for m in messages], "add_generation_prompt": add_generation_prompt, **names}
    try:
        pieces, length = [], 0
        for piece in _compiled(template).generate(**variables, range=_ranges()):
            length += len(piece)
            if length > MAX_OUTPUT:
                raise Fault(f"the chat template wrote more than {MAX_OUTPUT} characters")
            pieces.append(piece)
        return "".join(pieces)
    except Fault:
        raise
    # A template is a program: any error of Python may come out of it, and each is the template's.
    except Exception as error:
        raise Fault(
            f"the chat template of this model failed: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def plain(messages: Sequence[Message], add_generation_prompt: bool) -> str:
    """The prompt for a model without a template: `Role: content` paragraphs, then `Assistant:`."""
    paragraphs = [f"{message['role'].capitalize()}: {message.get('content') or ''}" for message in messages]
    return "\n\n".join([*paragraphs, "Assistant:"] if add_generation_prompt else paragraphs)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if len(template) > MAX_TEMPLATE:
        raise Fault(f"the chat template has {len(template)} characters; at most {MAX_TEMPLATE} are read")

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            return _product(operator, left, right)

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    for name in ("lipsum", "cycler", "joiner"):
        environment.globals.pop(name, None)
    return environment.from_string(template)


def _product(operator: str, left: Any, right: Any) -> Any:
    numbers = [value for value in (left, right) if isinstance(value, int | float)]
    lengths = [len(value) for value in (left, right) if isinstance(value, str | list | tuple)]
    size = max([abs(number) for number in numbers], default=0) * max(lengths, default=1)
    if size > MAX_PRODUCT or (operator == "**" and size > 64):
        raise Fault("the chat template multiplies beyond what a prompt needs")
    return left**right if operator == "**" else left * right


def _ranges() -> Any:
    """A `range` whose uses in one rendering share one budget, so that nested loops end."""
    left = MAX_RANGE

    def bounded(*arguments: int) -> range:
        nonlocal left
        numbers = range(*arguments)
        left -= min(len(numbers), MAX_RANGE + 1)
        if left < 0:
            raise Fault(f"the chat template loops over more than {MAX_RANGE} numbers")
        return numbers

    return bounded


def _refuse(message: object) -> NoReturn:
    raise Fault(f"the chat template refuses these messages: {' '.join(str(message).split())}")


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # jinja's own escapes HTML, which no model was trained on.
    separators, sort = options.get("separators"), bool(options.get("sort_keys", False))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort)
