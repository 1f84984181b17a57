"""Streams: whatever a document, a question or a name holds, an event is one line, and a comment forges none."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from openbook.serve.sse import comment, event_of

ANY = st.text(st.characters(exclude_categories=[]))  # lone surrogates too
BREAKS = st.lists(
    st.sampled_from(["\r", "\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\ud800", "a"])
)
TEXT = ANY | BREAKS.map("".join)


@given(TEXT)
@example('passages read\n\ndata: {"choices": []}\n\n')
@example("event: error\rdata: [DONE]\r\r")
def test_a_comment_is_one_line_that_starts_with_a_colon(told: str) -> None:
    first, end = comment(told).encode().decode().splitlines()
    assert first.startswith(": ") and end == ""


@given(st.recursive(TEXT | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)))
def test_an_event_is_one_line_and_says_what_was_said(data: object) -> None:
    lines = event_of(data).encode().decode().splitlines()
    assert len(lines) == 2 and lines[1] == ""
    assert json.loads(lines[0].removeprefix("data: ")) == json.loads(json.dumps(data))


@given(TEXT)
def test_an_event_with_a_kind_has_a_line_more(text: str) -> None:
    kind, data, end = event_of({"delta": text}, "response.output_text.delta").encode().decode().splitlines()
    assert kind == "event: response.output_text.delta" and end == "" and json.loads(data[6:]) == {"delta": text}


def test_a_progress_that_is_plain_is_left_as_it_is() -> None:
    assert comment("passages read 2/6") == ": passages read 2/6\n\n"
