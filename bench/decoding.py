"""What choosing a token costs beside computing it: cuts, a penalty, a constraint's mask; and making a vocabulary ready.

CPU milliseconds (other programs of the machine do not count), medians over the tokens of one text.

    .venv/bin/python bench/decoding.py [--models smollm2 gemma3] [--tokens 40]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from openbook.lm.decoding.constrain import Constraint
from openbook.lm.decoding.draft import Draft
from openbook.lm.decoding.hypotheses import Text
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.model import LanguageModel, load_model
from openbook.measure.machine import processor

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 40},
        "rivers": {"type": "array", "items": {"type": "string", "maxLength": 30}, "minItems": 3, "maxItems": 9},
        "founded": {"type": "integer", "minimum": -3000, "maximum": 2100},
    },
    "required": ["city", "rivers", "founded"],
    "additionalProperties": False,
}


DRAWS = {
    "greedy": Sampling(),
    "temperature alone": Sampling(0.8),
    "top-k 50": Sampling(0.8, top_k=50),
    "top-p 0.95": Sampling(0.8, top_p=0.95),
    "min-p 0.05": Sampling(0.8, min_p=0.05),
}


def timed(into: dict[str, list[float]], name: str, work: Callable[[], Any]) -> Any:
    """What `work` gives; its CPU milliseconds are added under the name."""
    began = time.process_time()
    made = work()
    into.setdefault(name, []).append(1e3 * (time.process_time() - began))
    return made


def measured(model: LanguageModel, tokens: int) -> dict[str, float]:
    """Medians by name, and seconds for the vocabulary."""
    made: dict[str, list[float]] = {}
    timed(made, "vocabulary, once", lambda: model.guides._vocabulary)
    constraint = Constraint("json_schema", json.dumps(SCHEMA))
    guide = timed(made, "grammar, once an answer", lambda: model.guides.guide(constraint))
    prompt = model.tokenizer.encode_chat([{"role": "user", "content": "Which rivers flow through Lyon?"}])
    rows = Text(model.runner, [prompt], tokens)
    scores_V, draft = rows.start()[0], Draft(model.tokenizer.eos_ids, seen=prompt)
    for _ in range(tokens):
        for name, sampling in DRAWS.items():
            timed(made, name, partial(sampling.pick, scores_V, sampling.generator()))
        timed(made, "repetition penalty", partial(draft.allow, scores_V, 1.2))
        allowed_V = timed(made, "mask of the constraint", partial(guide.mask, len(scores_V)))
        timed(made, "fork of the constraint, for a beam", guide.fork)
        token = int(scores_V.masked_fill(~allowed_V, float("-inf")).argmax())
        draft.add(token)
        guide.add(token)
        if guide.complete:
            break
        scores_V = timed(made, "forward of the model", partial(rows.step, [0], [token]))[0]
    return {name: statistics.median(times) for name, times in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2", "gemma3"])
    parser.add_argument("--tokens", type=int, default=40)
    options = parser.parse_args()
    print(f"{processor()}, {torch.get_num_threads()} threads; CPU ms, medians over up to {options.tokens} tokens\n")
    found = {name: measured(load_model(name), options.tokens) for name in options.models}
    print("| CPU ms | " + " | ".join(options.models) + " |\n|---|" + "---|" * len(options.models))
    for row in next(iter(found.values())):
        print(f"| {row} | " + " | ".join(f"{found[name][row]:.2f}" for name in options.models) + " |")


if __name__ == "__main__":
    main()
