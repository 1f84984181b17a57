"""What the page's tests share: the documents of their books, asking, taking pictures."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

PICTURES = Path(__file__).parents[2] / "docs" / "pictures" / "web"
PATIENCE = 60_000  # milliseconds: a busy machine is slow, never wrong

KARLSHOLT = """# The Karlsholt observatory

The Karlsholt observatory stands on the western ridge above Lake Tinn, at 1,140 metres. Its 1.2-metre reflector was
first used in 1994 and rebuilt after the flood of 2011.

## The comet of 2019

In 2019 the observatory measured a comet tail of 4.7 million kilometres; the team was led by Dr. Ingrid Vass, who had
come from Tromsø two years before. The plates are kept in the east cellar and may be seen by appointment.

## Visiting

Visitors are welcome on the first Saturday of each month between April and October. The road is closed to cars above the
tree line; a shuttle leaves from the harbour at Tinnvik at 10:15 and 13:45.
"""
SHUTTLE = """# The shuttle

The shuttle to Karlsholt is driven by Maren Oldhus and holds fourteen people. A ticket costs 60 kroner and is valid for
the way back.
"""
FAQ = """question,answer
When is the observatory open to visitors?,"On the first Saturday of each month, April to October."
What does the shuttle cost?,"A ticket costs 60 kroner and is valid for the way back."
How do I order a copy of a plate?,"Write to the archive in Aarhus; a copy costs 140 kroner and takes three weeks."
Can I drive up to the observatory?,"No. The road is closed to cars above the tree line; take the shuttle from Tinnvik."
"""
BULLETIN = (
    "Bulletin 44. Measurements of comet C/2018 W2 were taken on eleven nights",
    "between 3 and 21 September 2019 with the narrow-band filter set.",
    "The observers at the eyepiece were Peter Holm and Aino Rasanen.",
)
OWNED = "document.documentElement.dataset.owned=1"
HOSTILE = {
    f"<img src=x onerror={OWNED}>.md": "# Quince\n\nThe quince harvest of Velmora was led by Tobias <b>Arnqvist</b>.\n",
    "quince\u202efdp.exe.md": f"# </script><script>{OWNED}</script>\n\nThe quinces of Velmora weigh 410 grams each.\n",
    "long.md": f"# {'Quince' * 1700}\n\nThe quince press of Velmora was built by Agnes Holm <svg onload={OWNED}>.\n",
}


def pdf(lines: tuple[str, ...]) -> bytes:
    """A PDF of one page."""
    text = " ".join(f"1 0 0 1 72 {720 - 18 * i} Tm ({line}) Tj" for i, line in enumerate(lines))
    stream = f"BT /F1 12 Tf {text} ET"
    objects = (
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 5 0 R/Resources<</Font<</F1 4 0 R>>>>>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        f"<</Length {len(stream)}>>stream\n{stream}\nendstream",
    )
    data, places = b"%PDF-1.4\n", []
    for number, written in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj{written}endobj\n".encode("latin-1")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer<</Size {len(objects) + 1}/Root 1 0 R>>\n"
    return data + f"{end}startxref\n{len(data)}\n%%EOF\n".encode()


def until(page: Page, told: str) -> None:
    """Waits until an expression holds. The page's policy forbids Playwright's own way, which is to evaluate in it."""
    for _ in range(PATIENCE // 100):
        if page.evaluate(told):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never: {told}")


def ask(page: Page, question: str) -> None:
    """Asks, and waits for the whole answer."""
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")
    page.locator(".beneath, .fault").first.wait_for()


def picture(page: Page, name: str) -> None:
    """Keeps a picture for the docs, where OPENBOOK_PICTURES asks for them."""
    if os.environ.get("OPENBOOK_PICTURES"):
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(400)
        path = PICTURES / f"{name}.png"
        page.screenshot(path=path, full_page=True)
        with contextlib.suppress(ImportError):
            from PIL import Image

            Image.open(path).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2).save(
                path, optimize=True
            )
