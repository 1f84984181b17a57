"""Asking: the answer streams with its evidence, a word tells what it rests on, a source opens at the place."""

from __future__ import annotations

import json
import re

import pytest
from browsing import ask, picture

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'").expect

LEADER = "Who led the comet team of the observatory?"


def test_an_answer_streams_with_its_evidence(opened) -> None:
    page = opened()
    expect(page.locator(".lead")).to_contain_text("observatory: 4 documents")
    picture(page, "start")
    ask(page, LEADER)
    expect(page.locator(".answer")).to_contain_text("Ingrid Vass")
    marked = page.locator(".answer .t:not(.l0)")
    assert marked.count() >= 2
    assert page.locator(".strip > i").count() == page.locator(".strip > i b").count() >= 5
    first = page.locator(".source").first
    expect(first).to_contain_text("karlsholt.md")
    expect(first.locator(".bar i")).to_have_attribute("style", re.compile(r"width: \d"))
    expect(page.locator(".closed")).to_contain_text("closed book")
    expect(page.locator(".caveat")).to_contain_text("which source caused a word")
    picture(page, "answer")


def test_a_word_tells_what_it_rests_on(opened) -> None:
    page = opened()
    ask(page, LEADER)
    word = page.locator(".answer .l5").first
    word.hover()
    look = page.locator(".look")
    expect(look).to_contain_text("bits from the book")
    expect(look).to_contain_text("karlsholt.md")
    expect(look).to_contain_text("token")
    expect(page.locator(".rail h2")).to_have_text("Who carried this word")
    expect(page.locator(".strip > i.on")).to_have_count(1)
    picture(page, "word")
    page.mouse.move(5, 5)
    expect(look).to_be_hidden()


def test_a_source_opens_the_document_at_the_place(opened) -> None:
    page = opened()
    ask(page, LEADER)
    page.locator(".answer .cite").first.click()
    reader = page.locator(".reader")
    expect(reader.locator("h3")).to_contain_text("notes/karlsholt.md")
    expect(reader.locator("mark.on")).to_contain_text("Ingrid Vass")
    expect(reader.locator(".around").first).to_contain_text("western ridge")  # the document, not the passage alone
    seen = reader.locator(".words").evaluate(
        "box => { const m = box.querySelector('mark.on').getBoundingClientRect(), b = box.getBoundingClientRect();"
        " return m.top >= b.top && m.bottom <= b.bottom }"
    )
    assert seen
    picture(page, "place")
    page.keyboard.press("Escape")
    expect(reader).to_have_count(0)


def test_a_page_of_a_pdf_is_shown_as_a_page(opened) -> None:
    page = opened()
    ask(page, "On how many nights was comet C/2018 W2 measured?")
    page.locator(".source button.row", has_text="bulletin.pdf").click()
    picture_of_page = page.locator(".reader .page img")
    expect(picture_of_page).to_be_visible()
    assert picture_of_page.evaluate("i => i.decode().then(() => i.naturalWidth)") > 400
    picture(page, "page")
    page.get_by_role("button", name="as text").click()
    expect(page.locator(".reader .words")).to_contain_text("narrow-band filter")


def test_a_changed_setting_asks_again_and_two_stand_side_by_side(opened) -> None:
    page = opened()
    ask(page, LEADER)
    page.get_by_role("button", name="change").click()
    page.get_by_label("Passages").fill("2")
    expect(page.locator(".before")).to_contain_text("Before, with 5 passages")
    expect(page.locator(".source")).to_have_count(3)  # two and the model's own memory
    picture(page, "settings")
    page.locator(".answer .t").nth(1).hover()  # the new answer is as alive as the first one
    expect(page.locator(".strip > i.on")).to_have_count(1)
    page.locator(".source button.row").first.click()
    expect(page.locator(".reader mark").first).to_be_visible()
    page.get_by_role("button", name="Show both side by side").click()
    expect(page.locator(".pane")).to_have_count(2)
    expect(page.locator(".between")).to_contain_text("The two:")
    expect(page.locator(".pane").nth(0).locator(".settings .line")).to_contain_text("5 passages")
    expect(page.locator(".pane").nth(1).locator(".settings .line")).to_contain_text("2 passages")
    picture(page, "side-by-side")
    page.get_by_role("button", name="Keep this one").first.click()
    expect(page.locator(".pane")).to_have_count(1)


def test_a_certificate_is_told_where_it_is_asked_for(opened) -> None:
    page = opened()
    ask(page, LEADER)
    page.get_by_role("button", name="change").click()
    page.get_by_label("Withstand").select_option("0")
    expect(page.locator(".before")).to_contain_text("no certificate")
    page.locator(".answer .t").first.hover()
    expect(page.locator(".look .note").last).to_contain_text("certified")


def test_an_abstention_is_a_calm_result_with_its_reason(opened) -> None:
    page = opened()
    ask(page, "zxqj vbnm 83")
    expect(page.locator(".abstained")).to_contain_text("Not answered.")
    expect(page.locator(".abstained .why")).to_contain_text("bits")
    assert page.locator("[role=alert]").count() == 0
    expect(page.locator(".rail h2").first).to_have_text("What was found")
    picture(page, "abstained")
    page.get_by_role("button", name="answer anyway").click()
    expect(page.locator(".answer .t").first).to_be_visible()


def test_an_answer_can_be_stopped_and_asked_again(opened) -> None:
    page = opened()
    page.get_by_label("Your question").fill("Tell all that is known of the observatory.")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".state")).to_contain_text("Stopped.")
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator(".beneath")).to_be_visible()


def test_errors_say_what_to_do(opened) -> None:
    page = opened()
    busy = {"error": {"message": "The queue of 32 questions is full; wait a moment, then ask again.", "type": "busy"}}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=429, body=json.dumps(busy)))
    ask(page, LEADER)
    expect(page.get_by_role("alert")).to_contain_text("wait a moment, then ask again")
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.get_by_role("button", name="Ask again").click()
    expect(page.get_by_role("alert")).to_contain_text("openbook serve")
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator(".answer")).to_contain_text("Vass")
    page.get_by_role("button", name="change").click()
    page.get_by_label("Neighbours").fill("0.5")
    expect(page.get_by_role("alert")).to_contain_text("openbook add PATH --neighbours")  # this book has none
