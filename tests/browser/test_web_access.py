"""For everybody: the keyboard alone, screen readers, axe's rules, dark and light, a phone, and no motion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browsing import ask, picture, until

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'").expect

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
LEADER = "Who led the comet team of the observatory?"
LISTEN = """() => {
  window.said = [];
  const listen = () => {
    const text = document.querySelector("[aria-live]")?.textContent;
    if (text && window.said.at(-1) !== text) window.said.push(text);
  };
  new MutationObserver(listen).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""
SERIOUS = ("serious", "critical")


def findings(page) -> list[str]:
    """What axe finds serious, of the WCAG's levels A and AA and its own best practices."""
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{v['id']}: {v['help']}: {json.dumps([n['html'][:200] for n in v['nodes'][:3]])}"
        for v in found["violations"]
        if v["impact"] in SERIOUS
    ]


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core: cd web && npm ci")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing_serious(opened, scheme: str, width: int) -> None:
    page = opened(width=width, color_scheme=scheme, reduced_motion="reduce")
    ask(page, LEADER)
    page.locator(".answer .cite").first.click()
    expect(page.locator(".reader .around").first).to_be_visible()
    page.get_by_role("button", name="change").click()
    page.locator(".answer .t").nth(3).focus()
    assert findings(page) == []
    picture(page, f"answer-{scheme}-{width}")
    for part in ("documents", "map", "faq", "check", "overview", "history"):
        page.goto(page.url.split("#")[0] + f"#/{part}")
        expect(page.locator(".documents li, canvas, textarea, .answers li").first).to_be_visible()
        assert findings(page) == [], part
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), part
    page.get_by_role("button", name="Keys").click()
    assert findings(page) == []


def test_everything_of_an_answer_is_reached_by_the_keyboard(opened) -> None:
    page = opened()
    expect(page.locator(".lead")).to_be_visible()
    page.keyboard.press("/")
    expect(page.get_by_label("Your question")).to_be_focused()
    page.keyboard.type(LEADER)
    page.keyboard.press("Enter")
    page.locator(".beneath").wait_for()
    page.keyboard.press("Tab")  # the button
    page.keyboard.press("Tab")  # the settings
    page.keyboard.press("Tab")
    words = page.locator(".answer .t")
    expect(words.first).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(words.nth(1)).to_be_focused()
    expect(page.locator(".look")).to_contain_text("token 2 of")
    page.keyboard.press("End")
    expect(words.last).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.level") != "0"
    page.keyboard.press("Enter")
    expect(page.locator(".reader")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".reader")).to_have_count(0)
    page.keyboard.press("1")
    expect(page.locator(".source button.row").first).to_have_attribute("aria-expanded", "true")
    assert page.locator(".answer .t[tabindex='0']").count() == 1
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("single keys are shortcuts")
    page.get_by_label("single keys are shortcuts").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("g")
    page.keyboard.press("d")
    assert page.url.endswith("#/ask") or "#/" in page.url
    expect(page.locator(".answer")).to_be_visible()


def test_what_has_the_focus_can_be_seen(opened) -> None:
    page = opened()
    expect(page.locator(".lead")).to_be_visible()
    for _ in range(14):
        page.keyboard.press("Tab")
        ring = page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e), box = e.closest('.box');
              return e === document.body || parseFloat(s.outlineWidth) > 0 && s.outlineStyle !== 'none'
                || (box !== null && getComputedStyle(box).boxShadow !== 'none') }"""
        )
        assert ring, page.evaluate("document.activeElement.outerHTML")


def test_the_stream_is_announced_by_sentences(opened) -> None:
    page = opened()
    page.evaluate(LISTEN)
    ask(page, LEADER)
    until(page, "window.said.at(-1)?.endsWith('End of the answer.')")
    said = page.evaluate("window.said")
    assert said[0] == "Looking for passages."
    assert len(said) <= 2 + page.locator(".answer").inner_text().count(".")


def test_on_a_phone_a_word_is_tapped(opened) -> None:
    page = opened(width=360, has_touch=True, is_mobile=True)
    ask(page, LEADER)
    page.locator(".answer .t").nth(3).tap()
    look = page.locator(".look")
    expect(look).to_contain_text("token 4 of")
    box, height = look.bounding_box(), page.evaluate("innerHeight")
    assert box["x"] == 0 and abs(box["y"] + box["height"] - height) < 2  # at the foot, as wide as the phone
    page.locator(".caption").tap()
    expect(look).to_be_hidden()
    page.locator(".source button.row").first.tap()
    expect(page.locator(".reader mark").first).to_be_visible()


def test_dark_and_light_follow_the_system_and_the_switch(opened) -> None:
    page = opened(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_label("Light or dark").select_option("light")
    light = page.evaluate(ground)
    assert light == "rgb(255, 255, 255)" != dark
    page.reload()
    assert page.evaluate(ground) == light  # it is remembered
    page.get_by_label("Light or dark").select_option("auto")
    assert page.evaluate(ground) == dark


def test_who_wants_no_motion_gets_none(opened) -> None:
    page = opened(reduced_motion="reduce")
    ask(page, LEADER)
    moving = page.evaluate(
        """() => [...document.querySelectorAll('*')].filter(e => { const s = getComputedStyle(e);
          return s.animationName !== 'none' || s.transitionDuration.split(',').some(d => parseFloat(d) > 0) }).length"""
    )
    assert moving == 0
