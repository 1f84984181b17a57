"""Reports in a real browser: the picture in light and dark, a notebook's cell, hostile answers that stay text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from sample_answer import sample

from openbook.answer.palette import HUES
from openbook.answer.report.notebook import notebook
from openbook.answer.report.svg import svg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

OWNED = "document.documentElement.dataset.owned=1"
STRIP = "[...document.querySelectorAll('svg g')].length"
FILL = "getComputedStyle(document.querySelector({!r})).fill"


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1000, "height": 600})
    yield page
    page.close()


def shot(page: Page, name: str) -> None:
    """Kept where `OPENBOOK_SHOTS` names a folder, to be looked at."""
    if folder := os.environ.get("OPENBOOK_SHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


@pytest.mark.parametrize(
    ("scheme", "paper", "hue"), [("light", "#ffffff", HUES[0].light), ("dark", "#15171b", HUES[0].dark)]
)
def test_the_picture_follows_light_and_dark(page: Page, scheme: Any, paper: str, hue: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_content(f"<body style='margin:0'>{svg(sample())}")
    assert page.evaluate(FILL.format("rect.paper")) == rgb(paper)
    assert page.evaluate(FILL.format("rect.s1")) == rgb(hue)
    assert page.evaluate(STRIP) == len(sample()["tokens"])
    shot(page, f"report-{scheme}")


def test_no_word_of_the_picture_lies_on_another(page: Page) -> None:
    page.set_content(f"<body style='margin:0'>{svg(sample())}")
    boxes = page.evaluate(
        "[...document.querySelectorAll('svg text.ink')].map(t => t.getBoundingClientRect())"
        ".map(b => [b.left, b.top, b.right, b.bottom])"
    )
    assert len(boxes) > 20
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and right <= 960
        for other in boxes[:i]:
            apart = right <= other[0] + 1 or left >= other[2] - 1 or bottom <= other[1] + 4 or top >= other[3] - 4
            assert apart, (boxes[i], other)


@pytest.mark.parametrize(("ground", "ink"), [("#ffffff", "#111111"), ("#111418", "#e6e6e6")])
def test_a_cell_of_a_notebook_takes_its_ink_from_there(page: Page, ground: str, ink: str) -> None:
    outside = "<p id='outside' class='q'>outside</p><b class='f'>bold</b>"
    page.set_content(f"<body style='background:{ground};color:{ink};font-family:sans-serif'>{outside}")
    before = page.evaluate("JSON.stringify({...getComputedStyle(document.getElementById('outside'))})")
    page.set_content(
        f"<body style='background:{ground};color:{ink};font-family:sans-serif'>{outside}{notebook(sample())}"
    )
    assert page.evaluate("getComputedStyle(document.querySelector('.openbook-answer .a')).color") == rgb(ink)
    assert page.evaluate("JSON.stringify({...getComputedStyle(document.getElementById('outside'))})") == before
    page.locator("summary").first.click()
    assert page.locator("mark").first.is_visible()
    strip = page.locator(".openbook-answer .b").bounding_box()
    assert strip is not None and strip["width"] > 300 and strip["height"] == 46
    shot(page, f"cell-{ground[1:]}")


def test_a_hostile_answer_owns_neither(page: Page) -> None:
    answer = sample()
    bad = f"</text></svg><img src=x onerror={OWNED}><script>{OWNED}</script>\"'><svg onload={OWNED}>"
    answer["question"] = answer["reason"] = bad
    answer["answer"] = bad + answer["answer"]
    for source in answer["sources"]:
        source |= {"document": bad, "title": bad, "text": bad, "heading": bad}
    for token in answer["tokens"]:
        token["text"] = bad
    page.set_content(f"<body>{notebook(answer)}{svg(answer)}")
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.dataset.owned ?? null") is None
    assert page.evaluate("document.querySelectorAll('script, img, [onload], [onerror]').length") == 0
