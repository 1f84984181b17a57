"""What is shown belongs to what is open: books, panes, dialogs and the way back, each held in one place."""

from __future__ import annotations

import json
import re

import pytest
from browsing import ask, until
from test_web_ask import LEADER
from test_web_books import DROP

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'").expect

HELD = "karlsholt.md: held by the tagged version keep; forget with --tags to take this name off too"


def test_an_answer_of_another_book_opens_that_book_and_the_way_back_leads_back(opened) -> None:
    page = opened(book="hostile")
    ask(page, "Who built the quince press of Velmora?")
    page.get_by_label("Book", exact=True).select_option("observatory")
    page.get_by_role("link", name="History").click()
    page.locator(".answers a", has_text="quince press").first.click()
    expect(page.locator(".answer")).to_be_visible()
    expect(page.get_by_label("Book", exact=True)).to_have_value("hostile")
    page.locator(".source button.row").first.click()
    expect(page.locator(".reader .around").first).to_be_attached()  # the document was found where it is
    page.go_back()
    expect(page.locator("h1")).to_have_text("Answers given")
    page.wait_for_timeout(500)
    expect(page.locator("h1")).to_have_text("Answers given")


def test_a_document_is_opened_by_its_name_and_not_by_how_that_is_shown(opened) -> None:
    page = opened(book="hostile")
    ask(page, "How many grams do the quinces of Velmora weigh?")
    page.locator(".source button.row", has_text="fdp.exe").click()  # an override of the direction stands before it
    expect(page.locator(".reader .around").first).to_be_attached()


def test_the_map_is_of_the_book_that_is_open(opened) -> None:
    page = opened("map")

    def alike(route) -> None:
        found = route.fetch().json()
        route.fulfill(json={**found, "data": [{**book, "version": 1} for book in found["data"]]})

    page.route("**/v1/books", alike)
    page.reload()
    expect(page.locator(".list")).to_contain_text("Ingrid Vass")
    page.get_by_label("Book", exact=True).select_option("hostile")
    expect(page.locator(".list")).to_contain_text("Velmora")
    expect(page.locator(".list")).not_to_contain_text("Ingrid Vass")


def test_what_is_dropped_while_something_is_sent_comes_after_it(opened) -> None:
    page = opened("documents")
    expect(page.locator(".documents li")).to_have_count(4)
    for name in ("attic.md", "barn.md"):
        page.evaluate(DROP, [name, f"# The {name}\n\nNothing but old plates and a broken dome motor are kept there.\n"])
    expect(page.locator(".documents li")).to_have_count(6)
    for name in ("attic.md", "barn.md"):
        page.get_by_role("button", name=f"forget {name}").click()
        page.get_by_role("button", name="Forget it").click()
        expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator(".documents li")).to_have_count(4)


def test_named_versions_go_only_where_they_are_what_holds_a_document(opened) -> None:
    page, sent = opened("documents"), []

    def refuse(route) -> None:
        sent.append(route.request.url)
        status, told = (429, "The server is busy.") if len(sent) == 1 else (400, HELD)
        route.fulfill(status=status, json={"error": {"message": told}})

    forgetting = re.compile(r"/documents/.")
    page.route(forgetting, lambda route: refuse(route) if route.request.method == "DELETE" else route.continue_())
    page.get_by_role("button", name=re.compile("forget .*karlsholt.md")).click()
    page.get_by_role("button", name="Forget it").click()
    expect(page.get_by_role("alert")).to_contain_text("busy")
    page.get_by_role("button", name="Forget it", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("tagged")
    page.get_by_role("button", name="Forget it, named versions too").click()
    until(page, "document.querySelector('dialog [role=alert]') !== null")
    assert ["tags=true" in url for url in sent] == [False, False, True]


def test_escape_closes_a_dialog_and_nothing_behind_it(opened) -> None:
    page = opened()
    ask(page, LEADER)
    page.locator(".answer .cite").first.click()
    expect(page.locator(".reader")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator(".reader")).to_be_visible()


def test_each_of_two_panes_is_asked_and_described_by_itself(opened) -> None:
    page, asked = opened(), []
    page.on("request", lambda request: asked.append(request) if request.url.endswith("/chat/completions") else None)
    ask(page, LEADER)
    page.get_by_role("button", name="Compare with other settings").click()
    for line in page.locator(".settings .line").all():
        line.click()
    page.get_by_label("Passages").evaluate_all(
        """sliders => sliders.forEach((slider, i) => {
          slider.value = String(i + 2);
          slider.dispatchEvent(new Event("input", { bubbles: true }));
        })"""
    )
    expect(page.locator(".pane").nth(0).locator(".source")).to_have_count(3)
    expect(page.locator(".pane").nth(1).locator(".source")).to_have_count(4)
    expect(page.locator(".between")).to_be_visible()
    assert [json.loads(each.post_data)["openbook"]["passages"] for each in asked] == [5, 2, 3]
    for pane in page.locator(".pane").all():
        word = pane.locator(".answer .t").first.get_attribute("aria-describedby")
        assert pane.locator(".look").get_attribute("id") == word
    assert page.locator(".look").evaluate_all("boxes => new Set(boxes.map((box) => box.id)).size") == 2


def test_a_report_that_cannot_be_made_is_said(opened) -> None:
    page = opened()
    ask(page, LEADER)
    page.route(
        "**/report.md*", lambda route: route.fulfill(status=507, json={"error": {"message": "The disk is full."}})
    )
    page.get_by_role("button", name="as Markdown").click()
    expect(page.get_by_role("alert")).to_contain_text("disk is full")


def test_words_of_a_checked_text_are_looked_at_in_silence(opened) -> None:
    page = opened("check")
    page.get_by_label("The text to check").fill("\n The comet team was led by Dr. Ingrid Vass.")
    page.get_by_role("button", name="Check").click()
    expect(page.locator(".outcome > [aria-live]")).to_have_text("1 sentence checked.")
    assert page.locator("[aria-live] .answer, [aria-live] .rail").count() == 0
    assert page.locator(".answer .t[tabindex='0']").count() == 1


def test_a_picture_of_a_page_is_held_as_long_as_it_is_shown(opened) -> None:
    page = opened("documents")
    page.evaluate(
        """() => {
          window.held = new Set();
          const [make, drop] = [URL.createObjectURL, URL.revokeObjectURL];
          URL.createObjectURL = (of) => { const made = make.call(URL, of); window.held.add(made); return made; };
          URL.revokeObjectURL = (made) => { window.held.delete(made); drop.call(URL, made); };
        }"""
    )
    page.locator(".documents .name", has_text="bulletin.pdf").click()
    expect(page.locator("dialog img")).to_be_visible()
    page.wait_for_timeout(200)
    assert page.evaluate("[...window.held]") == [page.locator("dialog img").get_attribute("src")]
    page.keyboard.press("Escape")
    until(page, "window.held.size === 0")
