"""The other parts: the FAQ, a checked text, the whole book summed up, the map, the history, the keys."""

from __future__ import annotations

import os
from math import cos, sin

import pytest
from browsing import ask, picture

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'").expect

FRAMES = """() => new Promise((done) => {
  const canvas = document.querySelector("canvas"), box = canvas.getBoundingClientRect(), began = performance.now();
  let frames = 0;
  const step = (now) => {
    const at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true, cancelable: true };
    canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: frames++ % 60 < 30 ? -40 : 40, ...at }));
    if (frames < 90) requestAnimationFrame(step);
    else done((1000 * frames) / (now - began));
  };
  requestAnimationFrame(step);
})"""


def test_a_stored_answer_is_found_or_none_is_given(opened) -> None:
    page = opened("faq")
    page.get_by_label("Question", exact=True).fill("how much is a bus ticket?")
    page.keyboard.press("Enter")
    expect(page.locator(".reply .answer")).to_have_text("A ticket costs 60 kroner and is valid for the way back.")
    expect(page.locator(".reply .meta")).to_contain_text("What does the shuttle cost?")
    picture(page, "faq")
    page.get_by_role("button", name="faq.csv, line 4").click()
    expect(page.locator(".reader mark")).to_contain_text("60 kroner")
    page.get_by_label("Question", exact=True).fill("who is the king of Spain?")
    page.keyboard.press("Enter")
    expect(page.locator(".reply .abstained")).to_contain_text("Not answered.")


def test_a_pasted_text_is_checked_and_what_nothing_carries_is_marked(opened) -> None:
    page = opened("check")
    page.get_by_label("The text to check").fill(
        "The comet team was led by Dr. Ingrid Vass. The shuttle is driven by a robot from Mars."
    )
    page.get_by_role("button", name="Check").click()
    expect(page.locator(".judged li")).to_have_count(2)
    expect(page.locator(".judged li").nth(1)).to_contain_text("nothing carries")
    assert page.locator(".answer .doubted").count() >= 1
    picture(page, "check")
    page.locator(".judged .cite").first.click()
    expect(page.locator(".reader mark").first).to_be_visible()


def test_the_whole_book_is_summed_up(opened) -> None:
    page = opened("overview")
    page.get_by_label("Question about the whole book").fill("What is said about the observatory?")
    page.keyboard.press("Enter")
    expect(page.locator(".points li").first).to_be_visible()
    picture(page, "overview")
    page.locator(".points .cite").first.click()
    expect(page.locator(".reader mark").first).to_be_visible()


def test_the_map_can_be_moved_searched_and_read(opened) -> None:
    page = opened("map")
    expect(page.locator("canvas")).to_be_visible()
    expect(page.locator(".list li").first).to_be_visible()
    picture(page, "map")
    before = page.locator("canvas").screenshot()
    page.locator("canvas").focus()
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(300)
    assert page.locator("canvas").screenshot() != before
    page.get_by_label("search the names").fill("Ingrid")
    page.locator(".list button").first.click()
    page.get_by_label("search the names").fill("")
    expect(page.locator(".detail h2")).to_contain_text("Ingrid Vass")
    expect(page.locator(".detail blockquote mark").first).to_contain_text("Ingrid Vass")


def crowd(names: int, groups: int) -> dict[str, object]:
    """A graph of many names in discs on a grid, three relations a name, as /v1/books/…/graph sends one."""
    side, size = int(groups**0.5), names // groups
    discs = [(400.0 * (g % side), 400.0 * (g // side)) for g in range(groups)]
    entities: list[list[object]] = []
    for i in range(names):
        (x, y), r, turn = discs[i // size], 150 * ((i % size) / size) ** 0.5, 2.4 * (i % size)
        strength = 100 / (1 + i % size)
        entities.append([f"name {i}", "name", i // size, x + r * cos(turn), y + r * sin(turn), strength, [0], ""])
    pairs = [(i, (i + step) % names) for step in (1, 7, 97) for i in range(names)]
    communities = [
        {"title": f"name {g * size}", "key": [], "said": [0], "size": size, "x": x, "y": y, "r": 170}
        for g, (x, y) in enumerate(discs)
    ]
    relations = [[a, b, 1.0, 0] for a, b in pairs]
    sentences = [[0, "line 1", "All of them are named here."]]
    return {"communities": communities, "entities": entities, "relations": relations} | {
        "sentences": sentences, "documents": ["all.md"],
    }  # fmt: skip


def test_four_thousand_names_are_drawn_and_moved(opened, capsys) -> None:
    """How quickly is not judged here: where pictures are asked for it is printed, for docs/web.md."""
    page = opened("ask")
    page.route("**/graph", lambda route: route.fulfill(json=crowd(4_000, 100)))
    page.get_by_role("link", name="Map").click()
    expect(page.locator(".atlas .meta")).to_have_text("4\u2009000 names, 12\u2009000 relations, 100 communities")
    frames = page.evaluate(FRAMES)
    assert frames > 0
    page.get_by_label("search the names").fill("name 1234")
    page.locator(".list button").first.click()
    page.get_by_label("search the names").fill("")
    expect(page.locator(".detail h2")).to_have_text("name 1234")
    if os.environ.get("OPENBOOK_PICTURES"):
        with capsys.disabled():
            print(f"\n4,000 names, 12,000 relations, zoomed: {frames:.0f} frames a second")


def test_an_answer_given_before_is_opened_again(opened) -> None:
    page = opened()
    ask(page, "Who drives the shuttle to Karlsholt?")
    said = page.locator(".answer").inner_text()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as a page").click()
    assert b"shuttle" in saved.value.path().read_bytes()
    page.get_by_role("link", name="History").click()
    picture(page, "history")
    page.locator(".answers a", has_text="Who drives the shuttle").first.click()
    expect(page.locator(".answer")).to_be_visible()
    assert page.locator(".answer").inner_text() == said
    expect(page.get_by_label("Your question")).to_have_value("Who drives the shuttle to Karlsholt?")


def test_the_key_of_a_server_that_wants_one_is_asked_for(opened) -> None:
    page = opened()
    keys = []

    def guard(route) -> None:
        given = route.request.headers.get("authorization")
        keys.append(given)
        if given == "Bearer right-key-of-the-server":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": {"message": "This server wants its API key."}})

    page.route("**/v1/**", guard)
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("API key")
    page.get_by_label("Key").fill("right-key-of-the-server")
    page.keyboard.press("Enter")
    expect(page.locator(".lead")).to_contain_text("observatory")
    assert keys[-1] == "Bearer right-key-of-the-server"
