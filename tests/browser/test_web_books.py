"""The book itself: documents dropped on the page, files that cannot be read, reading, forgetting, versions."""

from __future__ import annotations

import json

import pytest
from browsing import ask, picture, until

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'").expect

DROP = """([name, text]) => {
  const files = new DataTransfer();
  files.items.add(new File([text], name, { type: "text/markdown" }));
  for (const kind of ["dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true }));
}"""
WATCH = """() => {
  window.seen = [];
  const look = () => {
    const bar = document.querySelector("progress");
    if (bar && bar.max === 10) window.seen.push(bar.value);
  };
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, attributes: true });
}"""
LARDER = "# The larder\n\nThe larder of the observatory is kept by Signe Torvald, who bakes on Thursdays.\n"


def test_documents_are_added_by_dropping_and_forgotten_after_asking(opened) -> None:
    page = opened("documents")
    expect(page.locator(".documents li")).to_have_count(4)
    version = int(page.locator(".room .meta").inner_text().split("version ")[1])
    page.evaluate(DROP, ["larder.md", LARDER])
    expect(page.locator(".adding")).to_contain_text("Added 1 document")
    expect(page.locator(".documents li")).to_have_count(5)
    expect(page.locator(".version").first).to_contain_text("documents added")
    picture(page, "documents")

    page.get_by_role("link", name="Ask").click()
    ask(page, "Who keeps the larder?")
    expect(page.locator(".answer")).to_contain_text("Torvald")
    expect(page.locator(".source").first).to_contain_text("larder.md")

    page.get_by_role("link", name="Documents").click()
    page.get_by_role("button", name="forget larder.md").click()
    expect(page.get_by_role("dialog")).to_contain_text("cannot be undone")
    picture(page, "forget")
    page.get_by_role("button", name="Keep it").click()
    expect(page.locator(".documents li")).to_have_count(5)
    page.get_by_role("button", name="forget larder.md").click()
    page.get_by_role("button", name="Forget it").click()
    expect(page.locator(".documents li")).to_have_count(4)
    assert int(page.locator(".room .meta").inner_text().split("version ")[1]) > version


def test_files_that_cannot_be_read_are_named_with_the_reason(opened) -> None:
    page = opened("documents")
    page.locator("input[type=file]").first.set_input_files(
        [
            {"name": "broken.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.4 no more"},
            {"name": "../../../etc/passwd", "mimeType": "text/plain", "buffer": bytes(range(256)) * 9},
        ]
    )
    expect(page.locator(".adding li").first).to_contain_text("broken.pdf")
    expect(page.locator(".documents li")).to_have_count(4)


def test_how_far_adding_is_can_be_seen(opened) -> None:
    page = opened("documents")
    told = [{"event": "progress", "done": 3, "total": 10, "what": "embedding", "document": ""}]
    lines = "".join(json.dumps(each) + "\n" for each in told)

    def answer(route) -> None:
        if route.request.method == "POST":
            route.fulfill(body=lines)
        else:
            route.continue_()

    page.route("**/documents", answer)
    page.evaluate(WATCH)
    page.evaluate(DROP, ["larder.md", LARDER])
    until(page, "window.seen.includes(3)")


def test_a_document_is_read_in_the_page(opened) -> None:
    page = opened("documents")
    page.locator(".documents .name", has_text="shuttle.md").click()
    expect(page.get_by_role("dialog")).to_contain_text("Maren Oldhus")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.locator(".documents .name", has_text="bulletin.pdf").click()
    expect(page.locator("dialog img")).to_be_visible()


def test_versions_are_named_gone_back_to_and_asked(opened) -> None:
    page = opened("documents")
    oldest = page.locator(".version", has_text="documents added").last
    number = oldest.locator(".number").inner_text()
    page.get_by_role("button", name=f"name version {number}", exact=True).click()
    page.keyboard.type("first")
    page.keyboard.press("Enter")
    expect(page.locator(".version", has_text="first")).to_have_count(1)
    page.get_by_role("button", name=f"use version {number}", exact=True).click()
    expect(page.locator(".version").first).to_contain_text("answers now")
    expect(page.locator(".documents li")).to_have_count(3)  # before the questions were added

    page.get_by_role("link", name="Ask").click()
    page.get_by_role("button", name="change").click()
    before = page.get_by_label("Version").locator("option").nth(2).evaluate("option => option.value")
    page.get_by_label("Version").select_option(before)
    ask(page, "What does a ticket for the shuttle cost?")
    expect(page.locator(".facts")).to_contain_text(f"version {before}")
    page.get_by_label("Version").select_option("")
    expect(page.locator(".before")).to_contain_text(f"Before, with version {before}")
    page.get_by_role("button", name="Show both side by side").click()
    expect(page.locator(".pane").nth(0).locator(".facts")).to_contain_text(f"version {before}")
    expect(page.locator(".pane").nth(1).locator(".facts")).not_to_contain_text(f"version {before}")
    page.get_by_role("link", name="Documents").click()
    page.get_by_role("button", name=f"use version {before}", exact=True).click()
    expect(page.locator(".documents li")).to_have_count(4)
