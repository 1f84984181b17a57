/** Beneath an answer: how it was made, what changed since the one before, and what can be done with it. */

import { useSignal } from "@preact/signals";
import { lasting, percent, signed } from "../lib/format";
import { isOwn, total } from "../lib/reading";
import { call, message } from "../lib/client";
import { words } from "../lib/diff";
import { short } from "../lib/text";
import type { Answer } from "../lib/types";
import * as runs from "../state/runs";
import { told } from "./settings";

export function Beneath({ pane, index, two }: { pane: runs.Pane; index: number; two: boolean }) {
  const run = pane.run.value!;
  const before = pane.before.value;
  const fault = useSignal("");
  const save = (kind: "html" | "md"): void => {
    fault.value = "";
    report(run.answer!, kind).catch((error: unknown) => (fault.value = message(error)));
  };
  if (run.state !== "done" || !run.answer) return null;
  const { answer } = run;
  const facts = [
    short(answer.model, 60),
    `version ${answer.book.version}`,
    answer.timings?.first_token_ms != null && `first word after ${lasting(answer.timings.first_token_ms)}`,
    answer.timings?.tokens_per_second != null && `${Math.round(answer.timings.tokens_per_second)} tokens a second`,
    answer.ended === "limit" && "ended at the limit of tokens",
    answer.ended === "repetition" && "ended where it repeated itself",
  ].filter(Boolean);
  return (
    <div class="beneath">
      {before && <Before run={run} before={before} />}
      <p class="facts">{facts.join(" · ")}</p>
      <p class="acts">
        {two ? (
          <button type="button" class="link" onClick={() => runs.single(index)}>
            Keep this one
          </button>
        ) : (
          <button type="button" class="link" onClick={runs.compare}>
            {before ? "Show both side by side" : "Compare with other settings"}
          </button>
        )}
        {answer.id != null && (
          <>
            <button type="button" class="link" onClick={() => save("html")}>
              Save as a page
            </button>
            <button type="button" class="link" onClick={() => save("md")}>
              as Markdown
            </button>
          </>
        )}
      </p>
      {fault.value && (
        <p class="state fault" role="alert">
          {fault.value}
        </p>
      )}
    </div>
  );
}

/** A report of the answer, as a file. It is fetched, not linked to: a link could not carry the key. */
async function report(answer: Answer, kind: "html" | "md"): Promise<void> {
  const book = answer.book.name ? `?book=${encodeURIComponent(answer.book.name)}` : "";
  const response = await call(`/v1/answers/${encodeURIComponent(answer.id!)}/report.${kind}${book}`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = `answer-${answer.id}.${kind}`;
  link.click();
  URL.revokeObjectURL(link.href);
}

/** The figures by which two answers are told apart. */
function figures(run: runs.Run): string {
  const own = run.sources.find(isOwn)?.responsibility;
  return `${signed(total(run.tokens))} bits${own != null ? `, closed book ${percent(own)}` : ""}`;
}

function same(one: runs.Run, other: runs.Run): string {
  const { changed, of } = words(runs.textOf(one), runs.textOf(other));
  return changed ? `${changed} of ${of} words are others` : "word for word the same";
}

function Before({ run, before }: { run: runs.Run; before: runs.Run }) {
  return (
    <p class="before">
      Before, with {told(before.settings, run.settings)}: {figures(before)}; {same(before, run)}.
    </p>
  );
}

/** What tells the two answers apart. */
export function Between() {
  const [one, other] = runs.panes.value.map((pane) => pane.run.value);
  if (one?.state !== "done" || other?.state !== "done") return null;
  return (
    <p class="before between">
      The two: {figures(one)}, and {figures(other)}; {same(one, other)}.
    </p>
  );
}
