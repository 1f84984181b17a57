"""Chat templates: jinja2 from a checkpoint, run in a sandbox because a checkpoint comes from anywhere.

Immutable sandbox: no attributes that lead out, no changing of what it was given. What it writes is bounded, and so is
every string or list that an operator, a filter or a method of strings makes; ranges share one budget. Time is not:
a template that loops over a long message many times, or compares lists nested in themselves, can still take long.
There is no clock (`strftime_now`) and no chance: the same messages give the same prompt on every day.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, update_wrapper, wraps
from types import BuiltinMethodType
from typing import Any, NoReturn

from openbook.errors import Fault

Message = Mapping[str, Any]

MAX_TEMPLATE = 1 << 20  # characters
MAX_OUTPUT = 1 << 24  # characters
MAX_RANGE = 100_000  # numbers in all ranges of one rendering together
MAX_PRODUCT = 1 << 20  # length of a repeated string or list, and any factor of a product
MAX_NESTED = 1 << 20  # values within a list or dictionary, those of its lists counted too
MAX_INDENT = 64

_WIDE = re.compile(
    r"\d{5}|%[^%a-zA-Z]*\*|\{[^{}]*:[^{}]*\{"
)  # in a format: a width of five digits, or one from elsewhere
ANSWER = "Answer:"
_ABSENT = ("batch", "filesizeformat", "pprint", "random", "round", "slice", "urlize", "wordwrap", "xmlattr")
_REFUSED = frozenset({"translate", "maketrans", "encode", "to_bytes"})


def render(template: str | None, messages: Sequence[Message], add_generation_prompt: bool, **names: Any) -> str:
    """The prompt of `messages`, each with `role` and `content`; `names` are further variables of the template.

    Without a template: paragraphs, then `Answer:`. Raises `Fault` with the template's own words
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


def folded(messages: Sequence[Message]) -> list[Message] | None:
    """The messages with a system message put before the first user's text; None where they do not begin so."""
    if [message.get("role") for message in messages[:2]] != ["system", "user"]:
        return None
    system, user = (message.get("content") for message in messages[:2])
    if not isinstance(system, str) or not isinstance(user, str):
        return None
    return [{**messages[1], "content": f"{system}\n\n{user}"}, *messages[2:]]


def plain(messages: Sequence[Message], add_generation_prompt: bool) -> str:
    """The prompt for a model without a template: paragraphs, the assistant's after `Answer:`.

    Such a model has seen texts and no turns: names before each paragraph make it go on with them.
    """
    said = {"assistant": f"{ANSWER} "}
    paragraphs = [f"{said.get(message['role'], '')}{message.get('content') or ''}" for message in messages]
    return "\n\n".join([*paragraphs, ANSWER] if add_generation_prompt else paragraphs)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    from jinja2.compiler import CodeGenerator
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if len(template) > MAX_TEMPLATE:
        raise Fault(f"the chat template has {len(template)} characters; at most {MAX_TEMPLATE} are read")

    class Generator(CodeGenerator):
        def visit_Concat(self, node: Any, frame: Any) -> None:  # `~`
            self.write("environment.concat((")
            for part in node.nodes:
                self.visit(part, frame)
                self.write(", ")
            self.write("))")

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**", "+", "%"})
        code_generator_class = Generator
        concat = staticmethod(_concat)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            return _OPERATORS[operator](left, right)

        def call(self, context: Any, called: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(called, BuiltinMethodType):
                _check_method(called, [*args, *kwargs.values()])
            return super().call(context, called, *args, **kwargs)

        def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
            format = super().wrap_str_format(value)
            if format is None:
                return None

            def bounded(*args: Any, **kwargs: Any) -> str:
                _check_format(value.__self__, [*args, *kwargs.values()], "{")
                return format(*args, **kwargs)

            return update_wrapper(bounded, value)

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], finalize=_measured
    )
    environment.filters.update(replace=_replace, indent=_indent, join=_join, center=_center, format=_format)
    environment.filters["tojson"] = _tojson
    for name in _ABSENT:
        environment.filters.pop(name, None)
    environment.filters.update({name: _of_measured(each) for name, each in environment.filters.items()})
    environment.globals["raise_exception"] = _refuse
    for name in ("lipsum", "cycler", "joiner"):
        environment.globals.pop(name, None)
    return environment.from_string(template)


def _room(size: int) -> None:
    if size > MAX_OUTPUT:
        raise Fault(f"the chat template makes a text or list longer than {MAX_OUTPUT}")


def _size(value: Any) -> int:
    """Characters of a value once it is written, about; a `Fault` for lists nested in lists a million times over."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, list | tuple | dict):
        return 32
    size, count = 0, 0
    rest: list[Any] = [value]
    while rest:
        each = rest.pop()
        if isinstance(each, list | tuple | dict):
            count += len(each) + 1
            if count > MAX_NESTED:
                raise Fault(f"the chat template makes a list of more than {MAX_NESTED} values")
            rest += [*each.keys(), *each.values()] if isinstance(each, dict) else each
        else:
            size += len(each) if isinstance(each, str) else 32
    return size


def _measured(value: Any) -> Any:
    """The value, which is about to be written."""
    _room(_size(value))
    return value


def _of_measured(filter: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, given lists only that could be written: many filters write what they are given."""

    @wraps(filter)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, list | tuple | dict):
                _measured(value)
        return filter(*args, **kwargs)

    return bounded


def _concat(pieces: Iterable[Any]) -> str:
    pieces = list(pieces)
    _room(sum(map(_size, pieces)))
    return "".join(map(str, pieces))


def _product(operator: str, left: Any, right: Any) -> Any:
    numbers = [value for value in (left, right) if isinstance(value, int | float)]
    lengths = [len(value) for value in (left, right) if isinstance(value, str | list | tuple)]
    size = max([abs(number) for number in numbers], default=0) * max(lengths, default=1)
    if size > MAX_PRODUCT or (operator == "**" and size > 64):
        raise Fault("the chat template multiplies beyond what a prompt needs")
    return left**right if operator == "**" else left * right


def _sum(left: Any, right: Any) -> Any:
    if isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        _room(len(left) + len(right))
    return left + right


def _remainder(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        _check_format(left, [right], "%")
    return left % right


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "*": lambda left, right: _product("*", left, right),
    "**": lambda left, right: _product("**", left, right),
    "+": _sum,
    "%": _remainder,
}


def _check_format(format: str, values: Sequence[Any], sign: str) -> None:
    if _WIDE.search(format):
        raise Fault("the chat template formats wider than a prompt needs")
    _room(len(format) + format.count(sign) * (10_000 + sum(map(_size, values))))


def _check_method(method: BuiltinMethodType, given: Sequence[Any]) -> None:
    """Refuse a call of a string's method whose result would be too long, before it is made."""
    name, text = method.__name__, method.__self__
    if name in _REFUSED:
        raise Fault(f"the chat template calls {name}, which no prompt needs")
    if not isinstance(text, str):
        return
    number = max((value for value in given if isinstance(value, int)), default=0)
    if name in ("center", "ljust", "rjust", "zfill"):
        _room(len(text) + number)
    elif name == "expandtabs":
        _room(len(text) + text.count("\t") * max(number, 8))
    elif name == "replace" and len(given) > 1 and isinstance(given[0], str) and isinstance(given[1], str):
        _room(len(text) + text.count(given[0]) * len(given[1]))
    elif name == "join" and given and hasattr(given[0], "__len__"):
        _room(_size(given[0]) + len(text) * len(given[0]))


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = str(value), str(old), str(new)
    _room(len(text) + text.count(old) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    from jinja2.filters import do_indent

    text = str(value)
    _room(len(text) + (len(text.splitlines()) + 1) * (len(width) if isinstance(width, str) else width))
    return do_indent(text, width, first, blank)


def _join(value: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
    def of(item: Any) -> Any:
        for part in () if attribute is None else str(attribute).split("."):
            item = item[int(part) if part.isdigit() else part]
        return item

    texts = [str(_measured(of(item))) for item in value]
    _room(sum(map(len, texts)) + len(str(d)) * len(texts))
    return str(d).join(texts)


def _center(value: Any, width: int = 80) -> str:
    _room(len(str(value)) + width)
    return str(value).center(width)


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    text = str(value)
    _check_format(text, [*args, *kwargs.values()], "%")
    return text % (kwargs or args)


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
    if indent is not None and indent > MAX_INDENT:
        raise Fault(f"the chat template indents JSON by {indent}")
    separators, sort = options.get("separators"), bool(options.get("sort_keys", False))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort)
