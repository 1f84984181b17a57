"""Documents and names by somebody who means harm: they are text on the page, and nothing else."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from browsing import OWNED, ask, picture
from sample_answer import sample

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'").expect

ATTACKS = (
    f"</script><script>{OWNED}</script>",
    f"<img src=x onerror={OWNED}>",
    f'"><svg onload="{OWNED}">',
    f"' autofocus onfocus='{OWNED}",
    f"javascript:{OWNED}",
    "\u202egnp.exe\u2066",
    "__proto__",
    "{{constructor.constructor('x')()}}",
    "L" * 10_000,
)
HANDLERS = (
    "[...document.querySelectorAll('main *')].flatMap(e => e.getAttributeNames()).filter(n => n.startsWith('on'))"
)


def test_hostile_documents_of_a_real_book_are_text(opened) -> None:
    page = opened("ask", book="hostile")
    ask(page, "Who led the quince harvest of Velmora?")
    expect(page.locator(".source", has_text="<img src=x onerror=")).not_to_have_count(0)
    for row in page.locator(".source button.row").all():
        row.click()
        expect(page.locator(".reader .words")).to_contain_text(re.compile("quince|</script>", re.IGNORECASE))
    assert "\u202e" not in page.locator("body").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    picture(page, "hostile")
    for part in ("documents", "map", "history"):
        page.goto(page.url.split("#")[0] + f"#/{part}")
        expect(page.locator(".documents li, canvas, .answers li").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), part
        assert "\u202e" not in page.locator("body").inner_text()


def attacked(value: Any, key: str = "") -> Any:
    """The same answer in which every string attacks; kinds, and ids by which rows are told apart, stay."""
    if isinstance(value, str):
        return value if key in ("kind", "source", "id") else ATTACKS[len(value) % len(ATTACKS)] + value
    if isinstance(value, dict):
        return {k: attacked(v, k) for k, v in value.items()}
    return [attacked(item, key) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("width", [1280, 360])
def test_an_answer_of_attacks_is_shown_and_nothing_runs(opened, width: int) -> None:
    answer = copy.deepcopy(sample())
    answer["sources"].append({"id": "knn", "kind": "neighbours", "responsibility": 0.2})
    place = {"document": "a.md", "line": 3, "before": "in the ", "text": " tail", "after": " of it", "p": 0.1}
    for token in answer["tokens"]:
        token["responsibility"]["knn"] = 0.2
        token["neighbours"] = [place]
    answer = attacked(answer)
    at = 0
    for token in answer["tokens"]:
        token["span"] = [at, at := at + len(token["text"])]
    answer["answer"] = "".join(token["text"] for token in answer["tokens"])
    chunks = [{"openbook": {"sources": answer["sources"]}}, *({"openbook": {"token": t}} for t in answer["tokens"])]
    events = [*chunks, {"openbook": {"answer": answer | {"id": 1}}}]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    page = opened(width=width)
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    ask(page, f"<img src=x onerror={OWNED}>")
    expect(page.locator(".answer .t")).to_have_count(len(answer["tokens"]))
    page.locator(".answer .t").nth(11).hover()
    expect(page.locator(".look")).to_be_visible()
    for row in page.locator(".source button.row").all():
        row.click()
        expect(page.locator(".reader .passage, .reader img, .reader .remembered").first).to_be_visible()
    assert page.locator("main :is(script, svg, iframe, object, embed, style, link, form[action])").count() == 0
    assert page.evaluate(HANDLERS) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_policy_forbids_what_is_inline_and_what_is_elsewhere(browser, served) -> None:
    page = browser.new_page()
    policy = page.goto(served.url).headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    ran = page.evaluate(
        """async () => {
          const script = document.createElement("script");
          script.textContent = "window.inline = 1";
          document.body.append(script);
          const left = await fetch("https://example.invalid/").then(() => "went", (error) => String(error));
          return [window.inline ?? null, left];
        }"""
    )
    page.close()
    assert ran[0] is None and ran[1] != "went"
