/** A question about the whole book: its points, each with where it is held. */

import { useMemo } from "preact/hooks";
import { counted, many, percent, signed } from "../lib/format";
import { hue, numbers } from "../lib/reading";
import { clean, sentence } from "../lib/text";
import type { Answer, Point } from "../lib/types";
import { asking } from "../state/asking";
import * as books from "../state/books";
import { view, type View } from "../state/view";
import { Evidence } from "./evidence";
import { Field, Outcome } from "./field";

const summing = asking<Answer>(
  () => books.path("/summarize"),
  (question) => ({ question }),
);

export function Overview() {
  return (
    <div class="ask">
      <Field
        asking={summing}
        label="Question about the whole book"
        placeholder="Ask about the book as a whole: what are its main themes?"
        act="Sum up"
      />
      <p class="hint">The whole book is read for this, not a few passages: it takes longer than a question.</p>
      <Outcome
        asking={summing}
        waiting="reading the book…"
        told={({ points = [] }) => (points.length ? `${counted(points.length, "point")} found.` : "Not answered.")}
      >
        {(answer) => <Summary answer={answer} />}
      </Outcome>
    </div>
  );
}

function Summary({ answer }: { answer: Answer }) {
  const seen = useMemo(view, [answer]);
  const read = answer.read ?? {};
  const shown = {
    text: "",
    tokens: [],
    sources: answer.sources,
    citations: answer.citations,
    version: answer.book.version,
  };
  const above = answer.abstained ? (
    <div class="abstained">
      <p class="no">Not answered.</p>
      <p class="why">{sentence(answer.reason)}</p>
    </div>
  ) : (
    <>
      <ol class="points">
        {(answer.points ?? []).map((point, i) => (
          <Said key={i} point={point} answer={answer} seen={seen} />
        ))}
      </ol>
      {read.passages != null && (
        <p class="meta">
          {counted(read.passages, "passage")}
          {read.tokens ? `, ${many(read.tokens)} tokens` : ""} read.
        </p>
      )}
    </>
  );
  return (
    <div class="panes">
      <Evidence shown={shown} view={seen} label="the points" heading="Where they are held" above={above} />
    </div>
  );
}

function Said({ point, answer, seen }: { point: Point; answer: Answer; seen: View }) {
  const signs = numbers(answer.sources);
  const held = point.evidence.map((each) => ({
    source: answer.sources.findIndex((source) => source.id === each.source),
    citation: answer.citations.findIndex(
      (citation) => citation.source === each.source && citation.cited_text === each.cited_text,
    ),
  }));
  return (
    <li>
      <p dir="auto" lang="">
        {clean(point.text)}
        {held
          .filter(({ source }) => source >= 0)
          .map(({ source, citation }, i) => (
            <sup key={i}>
              <button
                type="button"
                class={`cite ${hue(signs[source])}`}
                aria-label={`source ${signs[source]}: open the place`}
                onClick={() => (seen.opened.value = { source, citation: citation >= 0 ? citation : null })}
              >
                {signs[source]}
              </button>
            </sup>
          ))}
      </p>
      <span class="faint">
        {signed(point.bits)} bits · stands for {percent(point.share)} of what has to do with the question
      </span>
    </li>
  );
}
