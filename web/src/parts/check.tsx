/** A text that somebody else wrote, held against the book: what carries each word, and which words nothing carries. */

import { useMemo } from "preact/hooks";
import { counted, signed } from "../lib/format";
import { hue, numbers } from "../lib/reading";
import { clean, Points } from "../lib/text";
import type { Answer } from "../lib/types";
import { asking } from "../state/asking";
import * as books from "../state/books";
import { view, type View } from "../state/view";
import { Evidence } from "./evidence";
import { Field, Outcome } from "./field";

const checking = asking<Answer>(
  () => books.path("/check"),
  (text) => ({ text }),
);
const KINDS: Record<string, string> = { supported: "yes", partly: "partly", unsupported: "no" };

export function Check() {
  return (
    <div class="ask">
      <Field
        asking={checking}
        label="The text to check"
        placeholder="Paste a text: which of your documents carries it?"
        act="Check"
        tall
        most={20000}
      />
      <p class="hint">
        Scores what could have made a model write the words, not whether the passage proves them. Ctrl+Enter checks.
      </p>
      <Outcome
        asking={checking}
        waiting="reading it word by word…"
        told={(answer) => `${counted(answer.sentences?.length ?? 0, "sentence")} checked.`}
      >
        {(answer) => <Checked answer={answer} />}
      </Outcome>
    </div>
  );
}

function Checked({ answer }: { answer: Answer }) {
  const seen = useMemo(view, [answer]);
  const shown = {
    text: answer.answer,
    tokens: answer.tokens ?? [],
    sources: answer.sources,
    citations: answer.citations,
    sentences: answer.sentences ?? [],
    version: answer.book.version,
  };
  return (
    <div class="panes">
      <Evidence
        shown={shown}
        view={seen}
        label="the checked text"
        heading="What carries it"
        below={<Judged answer={answer} seen={seen} />}
      />
    </div>
  );
}

function Judged({ answer, seen }: { answer: Answer; seen: View }) {
  const points = useMemo(() => new Points(answer.answer), [answer]);
  const signs = numbers(answer.sources);
  return (
    <ol class="judged" aria-label="the verdict on each sentence">
      {(answer.sentences ?? []).map((sentence, i) => {
        const source = answer.sources.findIndex((each) => each.id === sentence.source);
        const citation = answer.citations.findIndex(
          (each) => each.source === sentence.source && each.span[0] === sentence.span[0],
        );
        return (
          <li key={i} class={KINDS[sentence.verdict] ?? ""}>
            <b class="verdict">{clean(sentence.verdict)}</b>
            <span dir="auto">
              {clean(points.slice(...sentence.span))}{" "}
              {source >= 0 && signs[source] && (
                <button
                  type="button"
                  class={`cite ${hue(signs[source])}`}
                  aria-label={`source ${signs[source]}: open the passage`}
                  onClick={() => (seen.opened.value = { source, citation: citation >= 0 ? citation : null })}
                >
                  {signs[source]}
                </button>
              )}
            </span>
            <span class="why">
              {signed(sentence.bits)} bits
              {sentence.unsupported.length > 0 && (
                <>
                  {" "}
                  · nothing carries:{" "}
                  {sentence.unsupported.map((span, k) => (
                    <>
                      {k > 0 && ", "}
                      <q key={k}>{clean(points.slice(...span))}</q>
                    </>
                  ))}
                </>
              )}
            </span>
          </li>
        );
      })}
    </ol>
  );
}
