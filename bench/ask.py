"""`openbook ask` on a warm book of 1,000 passages, beside transformers' `generate`: first token and tokens a second.

Same weights, same precision, same threads, greedy, one process, runs alternated; medians and quartiles.
openbook runs the closed book and its passages as branches of one batch; transformers runs one prompt: the best passage
and the question. "one branch" is openbook with a single passage and no closed book, the same work as transformers'.

    .venv/bin/python bench/ask.py [--passages 1000] [--runs 7] [--tokens 48]
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoConfig, LlamaForCausalLM

from openbook.answer.ask import write
from openbook.book.retrieve import find
from openbook.book.store import Book, open_book
from openbook.home import home
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.decoding.draft import Draft
from openbook.lm.encoder import load_encoder
from openbook.lm.model import load_model
from openbook.lm.weights.checkpoint import open_checkpoint
from openbook.measure.machine import processor
from openbook.mix.decode import Sampling, generate
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.prompt import Framing
from openbook.mix.reading import Reader, passage_text
from openbook.mix.settings import Settings
from openbook.mix.source import Label
from openbook.mix.sources.branches import Branch, Branches

NAMES = ["Alder", "Birch", "Cedar", "Dunmore", "Elmet", "Farrow", "Garth", "Holm", "Istra", "Jarrow", "Kelso", "Lund"]
PLACES = ["observatory", "harbour", "library", "mill", "bridge", "quarry", "school", "theatre", "garden", "station"]
PEOPLE = ["Ada Brandt", "Bo Lindqvist", "Clara Moss", "David Okafor", "Eva Sorel", "Finn Aasen", "Greta Hall"]
FACTS = [
    "The {n} {p} was founded in {y} by {a}, who paid for it with the profit of {k} years of trade.",
    "Its main hall is {k} metres long and was rebuilt by {b} after the flood of {z}.",
    "Every spring about {m} visitors come to {n}, most of them to hear the story of {a} and the lost ledger.",
    "In {z} the council of {n} voted by {k} to 7 to give the {p} to the town for ever.",
    "A letter from {b} to {a}, kept under glass, calls it the plainest and most useful building in the county.",
    "Its roof carries {m} tiles of grey slate, of which {k} were replaced when {b} was warden.",
]


def write_documents(folder: Path, passages: int) -> None:
    """Invented facts, a passage a file; the same each time."""
    rng = random.Random(0)
    for i in range(passages):
        values = {
            "n": f"{rng.choice(NAMES)}{rng.choice(['ford', 'by', 'ton', 'wick', 'ham'])} {i}",
            "p": rng.choice(PLACES),
            "a": rng.choice(PEOPLE),
            "b": rng.choice(PEOPLE),
            "y": rng.randint(1500, 1900),
            "z": rng.randint(1900, 2020),
            "k": rng.randint(8, 99),
            "m": rng.randint(1000, 9999),
        }
        text = " ".join(fact.format(**values) for fact in rng.sample(FACTS, len(FACTS)))
        (folder / f"{i:04}.md").write_text(f"# {values['n']} {values['p']}\n\n{text}\n", encoding="utf-8")


def warm_book(passages: int) -> Book:
    """The book of those documents, made once."""
    book = open_book(home() / "books" / f"bench-{passages}")
    if book.count < passages:
        with tempfile.TemporaryDirectory() as folder:
            write_documents(Path(folder), passages)
            book.add(folder)
    return book


def one_branch(reader: Reader, question: str, passage: str, tokens: int) -> tuple[float, float, list[int]]:
    """Milliseconds to the first token, tokens a second, and the tokens, of one passage alone, nothing kept."""
    model, began = reader.model, time.perf_counter()
    branch = Branch(Label("p1", "passage"), "p1", (passage,))
    rows = Branches(model, Framing(model.tokenizer, reader.settings.prompt), [branch], question, room=tokens)
    steps = generate(Mixture([rows], Weights(torch.zeros(1).double().numpy())), Sampling(), Draft(), tokens)
    written = [next(steps).token]
    first = time.perf_counter()
    written += [step.token for step in steps]
    return 1e3 * (first - began), (tokens - 1) / (time.perf_counter() - first), written


def oracle(model: torch.nn.Module, prompt: list[int], tokens: int) -> tuple[float, float, list[int]]:
    """The same of transformers' `generate`."""
    text = torch.tensor([prompt])

    def run(count: int) -> tuple[float, list[int]]:
        began = time.perf_counter()
        out = model.generate(  # type: ignore[operator]
            text, attention_mask=torch.ones_like(text), do_sample=False, max_new_tokens=count, min_new_tokens=count
        )
        return time.perf_counter() - began, out[0, len(prompt) :].tolist()

    first, _ = run(1)
    whole, written = run(tokens)
    return 1e3 * first, (tokens - 1) / (whole - first), written


def rival(dtype: torch.dtype) -> LlamaForCausalLM:
    """transformers' Llama with the same weights in the same precision, unpacked: from the GGUF itself it would keep
    them packed and unpack them at every step, which is not its best."""
    folder = home() / "models" / "smollm2"
    file = next(folder.glob("*.gguf"))
    with torch.device("meta"):
        model = LlamaForCausalLM(AutoConfig.from_pretrained(folder, gguf_file=file.name))
    state = {renamed(name): tensor for name, tensor in open_checkpoint(file).state(dtype)}
    model.load_state_dict(state, assign=True, strict=False)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    return model.eval()


def renamed(name: str) -> str:
    """Our name of a parameter as transformers has it."""
    for ours, theirs in NAMES_THERE:
        name = name.replace(ours, theirs)
    return f"model.{name}"


NAMES_THERE = (
    ("attention_norm", "input_layernorm"),
    ("feed_forward_norm", "post_attention_layernorm"),
    ("attention.query", "self_attn.q_proj"),
    ("attention.out", "self_attn.o_proj"),
    ("key_value.key", "self_attn.k_proj"),
    ("key_value.value", "self_attn.v_proj"),
    ("feed_forward.gate", "mlp.gate_proj"),
    ("feed_forward.up", "mlp.up_proj"),
    ("feed_forward.down", "mlp.down_proj"),
    ("embedding", "embed_tokens"),
)


class Race:
    """Every contestant on the same questions, one after the other, so that drift of the machine meets all alike."""

    def __init__(self, tokens: int, passages: int) -> None:
        self.tokens = tokens
        self.model, self.encoder = load_model(), load_encoder()
        self.book = warm_book(passages)
        self.settings = Settings(max_tokens=tokens, margin=None)
        self.rival = rival(self.model.runner.dtype)
        self.measured: dict[str, list[float]] = {}
        self.equal_texts = 0

    def run(self, question: str) -> None:
        """One question through all contestants."""
        reader = Reader(self.book, self.model, encoder=self.encoder, settings=self.settings, kept=PrefixStore(1 << 30))
        for name in ("openbook, passages read anew", "openbook, passages kept"):
            timings = write(reader, question).timings
            self._note(name, timings["first_token_ms"], timings["tokens_per_second"])
        passage = passage_text(find(self.book, question, 1, self.encoder)[0])
        framing = Framing(self.model.tokenizer, self.settings.prompt)
        suffix = framing.suffix(question)
        prompt = [*framing.prefix((passage,)), *suffix.question, *suffix.tail]
        first, rate, ours = one_branch(reader, question, passage, self.tokens)
        self._note("openbook, one branch, read anew", first, rate)
        first, rate, theirs = oracle(self.rival, prompt, self.tokens)
        self._note("transformers generate", first, rate)
        self.equal_texts += ours == theirs

    def _note(self, name: str, first_ms: float, rate: float) -> None:
        self.measured.setdefault(f"{name}: first token, ms", []).append(first_ms)
        self.measured.setdefault(f"{name}: decode, tok/s", []).append(rate)

    def report(self) -> None:
        """What was measured, and on what."""
        runs = len(next(iter(self.measured.values())))
        print(
            f"{processor()}, {torch.get_num_threads()} threads, {self.model.runner.dtype}, {self.book.count} passages, "
            f"{runs} questions, {self.tokens} tokens; {self.settings.pool} passages read with the question, "
            f"{self.settings.passages} kept beside the closed book; median (quartiles)"
        )
        for name, values in self.measured.items():
            low, middle, high = statistics.quantiles(values, n=4)
            print(f"  {name:<50} {middle:8.1f}  ({low:.1f} to {high:.1f})")
        print(f"  greedy texts of one branch equal transformers': {self.equal_texts} of {runs}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=48)
    options = parser.parse_args()
    race = Race(options.tokens, options.passages)
    titles = random.Random(1).sample([d.title for d in race.book.documents()], options.runs + 1)
    for run, title in enumerate(titles):
        race.run(f"Who founded the {title}?")
        if run == 0:  # the first question warms everything up and is not counted
            race.measured.clear()
            race.equal_texts = 0
    race.report()


if __name__ == "__main__":
    main()
