/** Stored questions and answers: the answer as it is on file, or none. */

import { useMemo } from "preact/hooks";
import { clean, sentence, short } from "../lib/text";
import { placeOf } from "../lib/reading";
import type { Answer } from "../lib/types";
import * as books from "../state/books";
import { asking } from "../state/asking";
import { view } from "../state/view";
import { Field, Outcome } from "./field";
import { Reader } from "./reader";

const faq = asking<Answer>(
  () => books.path("/faq"),
  (question) => ({ question }),
);

export function Faq() {
  return (
    <div class="room plain">
      <Field asking={faq} label="Question" placeholder="Ask what may have been asked before" act="Look up" />
      <p class="hint">From the book’s stored questions and answers alone; nothing is written by a model.</p>
      <Outcome asking={faq} told={({ abstained, answer }) => (abstained ? "Not answered." : clean(answer))}>
        {(answer) => <Reply answer={answer} />}
      </Outcome>
    </div>
  );
}

function Reply({ answer }: { answer: Answer }) {
  const seen = useMemo(view, [answer]);
  const pair = answer.sources[0] as (Answer["sources"][number] & { questions?: string[] }) | undefined;
  const sure = `${((answer.confidence ?? 0) * 100).toFixed(1)} %`;
  const shown = {
    text: answer.answer,
    tokens: [],
    sources: answer.sources,
    citations: answer.citations,
    version: answer.book.version,
  };
  return (
    <div class="reply s1">
      {answer.abstained ? (
        <div class="abstained">
          <p class="no">Not answered.</p>
          <p class="why">{sentence(answer.reason)}</p>
          {pair && (
            <p class="what">
              The nearest stored question: <q dir="auto">{short(pair.questions?.[0], 300)}</q>
            </p>
          )}
        </div>
      ) : (
        <>
          <p class="answer brief" dir="auto" lang="">
            {clean(answer.answer)}
          </p>
          <p class="meta">
            Stored as <q dir="auto">{short(pair?.questions?.[0], 300)}</q>
            {pair?.document && (
              <>
                {" "}
                in{" "}
                <button type="button" class="link" onClick={() => (seen.opened.value = { source: 0, citation: 0 })}>
                  <bdi>{short(pair.document, 90)}</bdi>, {placeOf(pair)}
                </button>
              </>
            )}
            , right with a confidence of {sure}.
          </p>
        </>
      )}
      {(answer.related?.length ?? 0) > 0 && (
        <section class="recent" aria-label="related questions">
          <h2>Related questions</h2>
          <ul>
            {answer.related!.map((each, i) => (
              <li key={i}>
                <button type="button" class="link plain" dir="auto" onClick={() => void faq.ask(each.question)}>
                  {short(each.question, 200)}
                </button>
              </li>
            ))}
          </ul>
        </section>
      )}
      <Reader shown={shown} view={seen} />
    </div>
  );
}
