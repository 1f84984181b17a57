"""The package context-cite on the same questions, passages and weights, in an environment of its own.

It writes and explains an answer of its own: all passages in one prompt, the model run by transformers in bf16. The
prompt's words are ours, the system's among the user's, since the package has no place for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np

from openbook.errors import Fault
from openbook.lm.weights.checkpoint import Checkpoint
from openbook.measure.ablation import draw, surrogate
from openbook.measure.evidence import ABLATIONS, DEEPEST, FELT, Judged, Outcome
from openbook.measure.evidence_table import Row, rows
from openbook.measure.leaving_out import Cost
from openbook.measure.ranks import kendall, pairs_in_order, spearman, top_agrees
from openbook.measure.speed.environments import CONTEXT_CITE
from openbook.measure.speed.files import as_folder
from openbook.measure.speed.process import Worker
from openbook.mix.prompt import Prompt
from openbook.mix.settings import Settings


class Beside(TypedDict):
    """Rows by the number of ablations; their cost is of prompts that differ, `asked` how many the package ran with the
    most ablations, per question. `solver_difference`: the largest between its coefficients and ours of its ablations.
    """

    engine: str
    questions: int
    failed: list[str]
    rows: dict[str, Row]
    asked: float
    solver_difference: float


def context_cite(
    outcomes: Sequence[Outcome],
    checkpoint: Checkpoint,
    settings: Settings,
    threads: int,
    tell: Callable[[str], None],
    done: Callable[[int], None],
) -> Beside:
    """What the package says of these questions; `tell` hears of its installation. `Fault` where it cannot run."""
    folder = as_folder(checkpoint, tell)
    CONTEXT_CITE.install(tell)
    worker = Worker("context_cite", CONTEXT_CITE, threads)
    ran, failed = list[dict[str, Any]](), list[str]()
    try:
        facts = worker.call(
            "open",
            model=str(folder),
            prompt=one_prompt(settings.prompt),
            cases=[{"question": one.question, "passages": one.passages} for one in outcomes],
            counts=ABLATIONS,
            longest=settings.max_tokens,
            deepest=DEEPEST,
            threads=threads,
        )
        for count, outcome in enumerate(outcomes, 1):
            try:
                ran.append(worker.run())
            except Fault as fault:  # an answer without a word, say
                failed.append(f"{outcome.question}: {fault}")
            done(count)
    finally:
        worker.close()
    if not ran:
        raise Fault(f"context-cite explained none of {len(outcomes)} questions: {failed[:1]}")
    return Beside(
        engine=facts["engine"],
        questions=len(ran),
        failed=failed,
        rows=rows([_judged(one) for one in ran], [_took(one) for one in ran]),
        asked=float(np.mean([one["asked"] for one in ran])),
        solver_difference=max(map(solver_difference, ran)),
    )


def one_prompt(prompt: Prompt) -> str:
    """Our prompt as the package's template, `{context}` and `{query}` in it."""
    before, after = (words.replace("{", "{{").replace("}", "}}") for words in (prompt.system, prompt.after_question))
    cue = prompt.before_question.replace("{", "{{").replace("}", "}}")
    return f"{before}\n\n{{context}}{cue} {{query}}{after}".lstrip("\n")


def solver_difference(ran: dict[str, Any]) -> float:
    """The largest between the package's coefficients and ours, of the ablations it drew, which are those we draw."""
    count = max(map(int, ran["scores"]))
    masks_NP, theirs_P = np.array(ran["masks"], dtype=bool), np.array(ran["scores"][str(count)])
    if not np.array_equal(masks_NP, draw(count, len(theirs_P))):
        raise Fault("this version of context-cite draws other ablations than ours; they cannot be compared")
    ours_P = surrogate(masks_NP, np.array(ran["logits"]), ran["length"])
    return float(np.abs(ours_P - theirs_P).max())


def _judged(ran: dict[str, Any]) -> dict[str, Judged]:
    lost_P, made = np.array(ran["lost"]), {}
    for count, scores in ran["scores"].items():
        scores_P, drops = np.array(scores), tuple(ran["drops"][count])
        agree = spearman(scores_P, lost_P), kendall(scores_P, lost_P), top_agrees(scores_P, lost_P)
        made[f"context-cite, {count}"] = Judged(*agree, pairs_in_order(scores_P, lost_P, FELT), drops)
    return made


def _took(ran: dict[str, Any]) -> dict[str, Cost]:
    return {f"context-cite, {count}": Cost(passes, ran["tokens"][count]) for count, passes in ran["passes"].items()}
