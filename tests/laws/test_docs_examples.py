"""The examples of the pages on attention and positions run as they are printed; links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", ["attention.md", "positions.md"])
def test_examples_run(page: str) -> None:
    assert len(examples(page)) == 2
    for example in examples(page):
        exec(compile(example, page, "exec"), {})  # noqa: S102 - our own page


def test_the_description_of_the_entrance_page_is_a_model() -> None:
    exec(compile(examples("language-model.md")[1], "language-model.md", "exec"), {})  # noqa: S102 - our own page


@pytest.mark.parametrize("page", sorted(page.name for page in DOCS.glob("*.md")))
def test_links_lead_somewhere(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    targets = {target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target}
    named = set(re.findall(r"docs/([\w-]+\.md)", text))
    assert all((DOCS / target).exists() for target in (targets | named) - {""}), targets | named


def test_the_mask_of_the_page_narrows_what_is_seen() -> None:
    """With a stride of 4 past 3 keys, token 10 sees 10, 9, 8 and 6, 2: another token elsewhere changes nothing."""
    names: dict[str, object] = {}
    exec(compile(examples("attention.md")[1], "attention.md", "exec"), names)  # noqa: S102
    from openbook.lm.decoder import Decoder
    from openbook.lm.spec import ModelSpec

    decoder = names["decoder"]
    assert isinstance(decoder, Decoder)
    first = Decoder(
        ModelSpec(100, 32, decoder.spec.layers[:1], max_positions=128)
    )  # one layer, so that sight is direct
    text = torch.arange(20)[None]
    for position, seen in {10: True, 9: True, 8: True, 7: False, 6: True, 5: False, 2: True, 12: False}.items():
        changed = text.clone()
        changed[0, position] = 50
        with torch.inference_mode():
            same = torch.equal(first(text)[0, 10], first(changed)[0, 10])
        assert same != seen, position


def test_the_scaling_of_the_page_slows_the_slowest_pair() -> None:
    names: dict[str, object] = {}
    exec(compile(examples("positions.md")[1], "positions.md", "exec"), names)  # noqa: S102
    from openbook.lm.positions import plain

    f = names["f"]
    assert isinstance(f, torch.Tensor)
    torch.testing.assert_close(f[-1], plain(10_000.0, 64)[-1] / 4)
    assert f[0] == 1
