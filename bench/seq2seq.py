"""Does an encoder–decoder learn to read one text and write another? Texts of letters, to be written backwards.

.venv/bin/python bench/seq2seq.py [--steps 800] [--seeds 3]      (prints a table;
--picture draws docs/pictures/encoder-decoder.svg again)

Two layers each, 64 wide, 4 heads. Trained on texts of 4 to 12 letters; then 300 fresh texts of those lengths, and 300
of 13 to 16, are written greedily and counted as right where every letter is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from openbook.lm.encoder import pad
from openbook.lm.rules import rule
from openbook.lm.seq2seq import Continuations, Seq2Seq, classic
from openbook.lm.spec import ModelSpec, Seq2SeqSpec
from openbook.lm.stack import Layer, Memory

PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "encoder-decoder.svg"
START, END, LETTERS = 0, 1, 26
VOCABULARY, SHORT, LONG = LETTERS + 2, (4, 12), (13, 16)

POST = classic(VOCABULARY, width=64, heads=4, inner=128, layers=2, start=START)
PRE = classic(VOCABULARY, width=64, heads=4, inner=128, layers=2, start=START, place="pre")


def placed(spec: Seq2SeqSpec, learned: bool) -> Seq2SeqSpec:
    """The same with a vector a position that is learned (BART), or a bias a distance (T5), in place of sinusoids."""

    def stack(side: ModelSpec) -> ModelSpec:
        if learned:
            return replace(side, positions="learned", max_positions=32)
        distance = rule("relative", buckets=16, max_distance=16, both_ways=not side.head)
        layers = (replace(each, attention=replace(each.attention, bias=distance)) for each in side.layers)
        return replace(side, positions=None, layers=tuple(layers))

    return replace(spec, encoder=stack(spec.encoder), decoder=stack(spec.decoder))


RIVALS = {
    "post-norm, sinusoids (2017)": POST,
    "pre-norm, sinusoids": PRE,
    "pre-norm, learned positions": placed(PRE, learned=True),
    "pre-norm, a bias a distance": placed(PRE, learned=False),
}


def draw(count: int, lengths: tuple[int, int], generator: torch.Generator) -> list[list[int]]:
    """Texts of letters, each with its end."""
    sizes = torch.randint(lengths[0], lengths[1] + 1, (count,), generator=generator).tolist()
    return [[*torch.randint(2, VOCABULARY, (n,), generator=generator).tolist(), END] for n in sizes]


def backwards(text: list[int]) -> list[int]:
    return [*text[-2::-1], END]


def build(spec: Seq2SeqSpec, seed: int) -> Seq2Seq:
    """Random weights; embeddings of M^−½, since the spec multiplies them by √M."""
    torch.manual_seed(seed)
    model = Seq2Seq(spec)
    torch.nn.init.normal_(model.encoder.embedding.weight, std=spec.encoder.width**-0.5)
    return model


def train(model: Seq2Seq, steps: int, seed: int, blind: bool = False) -> float:
    """Cross-entropy of the last steps, bits a letter. `blind` gives each text the memory of another."""
    generator = torch.Generator().manual_seed(1000 + seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.9, 0.98))
    bits = []
    for step in range(steps):
        for group in optimiser.param_groups:  # a line up, then down with the root of the steps (section 5.3)
            group["lr"] = 2e-3 * min((step + 1) / 100, (100 / (step + 1)) ** 0.5)
        texts = draw(64, SHORT, generator)
        written, positions_BT = pad([backwards(text) for text in texts])
        given = F.pad(written[:, :-1], (1, 0), value=START)
        memory = model.encode(*pad(texts[1:] + texts[:1] if blind else texts))
        logits_BTV = model(given, positions_BT, memory=memory)
        loss = F.cross_entropy(logits_BTV[positions_BT >= 0], written[positions_BT >= 0])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        bits.append(float(loss.detach()) * 1.4427)
    model.eval()
    return statistics.mean(bits[-50:])


@torch.inference_mode()
def right(model: Seq2Seq, lengths: tuple[int, int], count: int = 300) -> float:
    """The share of fresh texts that are written backwards without a mistake, greedily."""
    texts = draw(count, lengths, torch.Generator().manual_seed(7))
    going = Continuations(model, model.encode(*pad(texts)), lengths[1] + 1)
    tokens = going.start().argmax(-1)
    written = [tokens]
    for _ in range(lengths[1]):
        tokens = going.step(range(count), tokens.tolist()).argmax(-1)
        written.append(tokens)
    rows = torch.stack(written, 1).tolist()
    return sum(row[: len(text)] == backwards(text) for row, text in zip(rows, texts, strict=True)) / count


def attended(model: Seq2Seq, text: list[int], layer: int) -> Tensor:
    """Where each written letter looks in what is read, `[T, S]`: mean of the heads of a layer's cross-attention."""
    at: Layer = model.decoder.layers[layer]  # type: ignore[assignment]
    seen: list[Tensor] = []
    hook = at.cross.query.register_forward_hook(lambda _module, _given, query: seen.append(query))
    with torch.inference_mode():
        memory: Memory = model.encode(*pad([text]))
        model(torch.tensor([[START, *backwards(text)[:-1]]]), memory=memory)
    hook.remove()
    q_THD = seen[0][0].unflatten(-1, (4, -1))
    k_KSD = memory.keys_values[layer][0][0]
    return torch.einsum("thd,hsd->hts", q_THD, k_KSD).div(k_KSD.shape[-1] ** 0.5).softmax(-1).mean(0)


def picture(weights: list[Tensor], text: list[int]) -> str:
    """A map a layer: rows are what is written, columns what is read. As SVG."""
    letters = "".join(chr(95 + token) for token in text[:-1]) + "."
    cell, parts = 20, []
    for panel, map_TS in enumerate(weights):
        left = 40 + panel * (len(letters) * cell + 60)
        parts.append(f'<text x="{left}" y="14">layer {panel + 1}: read →, written ↓</text>')
        for column, letter in enumerate(letters):
            parts.append(f'<text x="{left + column * cell + 6}" y="34">{letter}</text>')
        for row, letter in enumerate(letters[-2::-1] + "."):
            parts.append(f'<text x="{left - 16}" y="{54 + row * cell}">{letter}</text>')
            for column in range(len(letters)):
                shade = float(map_TS[row, column])
                parts.append(
                    f'<rect x="{left + column * cell}" y="{40 + row * cell}" width="{cell - 1}" height="{cell - 1}" '
                    f'fill-opacity="{shade:.2f}"/>'
                )
    width, height = 40 + len(weights) * (len(letters) * cell + 60), 50 + len(letters) * cell
    style = "text{font:12px sans-serif;fill:#333}rect{fill:#2f6f9f}svg{background:#fff}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<style>{style}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--picture", action="store_true", help="draw the picture of the page again")
    options = parser.parse_args()
    print("| model | weights | bits a letter | right, 4–12 letters | right, 13–16 letters | s |")
    print("|---|---|---|---|---|---|")
    for name, spec in {**RIVALS, "pre-norm, memory of another text": PRE}.items():
        found = []
        for seed in range(options.seeds):
            model, began = build(spec, seed), time.perf_counter()
            bits = train(model, options.steps, seed, blind="another" in name)
            found.append((bits, right(model, SHORT), right(model, LONG), time.perf_counter() - began))
            if options.picture and spec is PRE and seed == 0 and "another" not in name:
                text = [ord(letter) - 95 for letter in "openbook"] + [END]
                maps = [attended(model, text, layer) for layer in range(2)]
                PICTURE.write_text(picture(maps, text), encoding="utf-8")
        bits, short, long, spent = (statistics.median(column) for column in zip(*found, strict=True))
        least, most = (f(row[1] for row in found) for f in (min, max))
        size = sum(p.numel() for p in model.parameters())
        cells = (f"{size:,}", f"{bits:.3f}", f"{short:.1%} ({least:.1%}–{most:.1%})", f"{long:.1%}", f"{spent:.0f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
