"""How smoothly the picture of a graph moves: frames a second while it is zoomed and dragged, in a headless Chromium.

    openbook graph --html graph.html --book notes.book
    python bench/picture.py graph.html [--seconds 4] [--chromium /usr/bin/chromium] [--png FILE]

Before every frame the page's own script gets a wheel or pointer event, as a hand would send them; what is counted are
the browser's animation frames. Headless Chromium paints with the processor: a graphics card is quicker.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

MOVES = """
async ({ seconds, kind }) => {
  const canvas = document.getElementById("canvas"), box = canvas.getBoundingClientRect();
  const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
  const point = (type, dx = 0, dy = 0) => canvas.dispatchEvent(new PointerEvent(type, {
    clientX: x + dx, clientY: y + dy, bubbles: true, pointerId: 1 }));
  const wheel = (deltaY) => canvas.dispatchEvent(new WheelEvent("wheel", {
    clientX: x, clientY: y, bubbles: true, cancelable: true, deltaY }));
  const moves = {
    zoom: (t) => wheel(Math.floor(t) % 2 ? 40 : -40),
    drag: (t) => point("pointermove", 160 * Math.sin(3 * t), 90 * Math.cos(2 * t)),
    hover: (t) => point("pointermove", 300 * Math.sin(3 * t), 200 * Math.cos(2 * t)),
  };
  canvas.setPointerCapture = () => {}; // there is no pointer to capture
  const gaps = [], began = performance.now();
  if (kind === "drag") point("pointerdown");
  for (let before = began; before - began < 1000 * seconds;) {
    moves[kind]((before - began) / 1000);
    const now = await new Promise(requestAnimationFrame);
    gaps.push(now - before);
    before = now;
  }
  const took = performance.now() - began, n = gaps.length;
  if (kind === "drag") point("pointerup", 50);
  gaps.sort((a, b) => a - b);
  return { fps: 1000 * n / took, median_ms: gaps[Math.floor(n / 2)], worst_of_20_ms: gaps[Math.floor(0.95 * n)] };
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    parser.add_argument("--png", type=Path, help="the picture as it is after all moves")
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(given.page.resolve().as_uri())
        drawn = page.evaluate(
            "() => { const d = JSON.parse(document.getElementById('data').textContent);"
            " return [d.entities.length, d.relations.length, d.communities.length]; }"
        )
        print(f"{drawn[0]:,} names, {drawn[1]:,} relations, {drawn[2]} communities, 1280 × 800")
        for kind in ("zoom", "drag", "hover"):
            print(
                kind,
                json.dumps(
                    {k: round(v, 1) for k, v in page.evaluate(MOVES, {"seconds": given.seconds, "kind": kind}).items()}
                ),
            )
        if given.png:
            page.wait_for_timeout(600)
            page.screenshot(path=str(given.png))
        browser.close()


if __name__ == "__main__":
    main()
