/** Ask: the question, its settings, and the answer with its evidence; or two of them side by side. */

import { useSignalEffect } from "@preact/signals";
import { useMemo, useRef } from "preact/hooks";
import { counted } from "../lib/format";
import { sentence } from "../lib/text";
import * as books from "../state/books";
import { go } from "../state/place";
import * as runs from "../state/runs";
import { view } from "../state/view";
import { Evidence } from "./evidence";
import { Announce } from "./announce";
import { Beneath, Between } from "./beneath";
import { Recent } from "./recent";
import { SettingsLine } from "./settings";

export function Ask() {
  const panes = runs.panes.value;
  const two = panes.length > 1;
  const asked = panes.some((pane) => pane.run.value);
  return (
    <div class={two ? "ask two" : "ask"}>
      <Box />
      {!two && <SettingsLine pane={panes[0]!} />}
      {!asked && <Empty />}
      {two && <Between />}
      <div class="panes">
        {panes.map((pane, i) => (
          <PaneView key={i} pane={pane} index={i} two={two} />
        ))}
      </div>
    </div>
  );
}

function Box() {
  const field = useRef<HTMLTextAreaElement>(null);
  const busy = runs.panes.value.some((pane) => ["waiting", "writing"].includes(pane.run.value?.state ?? ""));
  const none = books.loaded.value && !books.book.value;
  const grow = (): void => {
    const box = field.current;
    if (!box) return;
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight}px`;
  };
  useSignalEffect(() => {
    if (field.current && field.current.value !== runs.question.value) field.current.value = runs.question.value;
    grow();
  });
  const send = (): void => {
    const text = field.current?.value.trim() ?? "";
    if (text && !none) runs.askAll(text);
    else field.current?.focus();
  };
  return (
    <form class="box" onSubmit={(event) => (event.preventDefault(), send())}>
      <label class="hidden" for="question">
        Your question
      </label>
      <textarea
        ref={field}
        id="question"
        rows={1}
        dir="auto"
        placeholder="Ask your documents"
        maxLength={8000}
        enterkeyhint="send"
        onInput={grow}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          send();
        }}
      />
      {/* Two buttons by their keys: were it one, a click on Stop would end as a submit. */}
      {busy ? (
        <button key="stop" type="button" class="act" onClick={() => runs.panes.value.forEach(runs.stop)}>
          Stop
        </button>
      ) : (
        <button key="ask" type="submit" class="act" disabled={none}>
          Ask
        </button>
      )}
    </form>
  );
}

function Empty() {
  const book = books.book.value;
  if (!books.loaded.value) return null;
  if (!book)
    return (
      <p class="lead">
        There is no book here yet. Make one: <code>openbook add notes/</code>, then start <code>openbook serve</code> in
        the same folder.
      </p>
    );
  if (!book.passages)
    return (
      <p class="lead">
        This book is empty. Drop documents on this page, or{" "}
        <button type="button" class="link" onClick={() => go("documents")}>
          choose them
        </button>
        .
      </p>
    );
  return (
    <>
      <p class="lead">
        Answers come from{" "}
        <b>
          <bdi>{book.name}</bdi>
        </b>
        : {counted(book.documents, "document")}, {counted(book.passages, "passage")}. Every word shows which passage it
        came from, and how much.
      </p>
      <Recent />
    </>
  );
}

function PaneView({ pane, index, two }: { pane: runs.Pane; index: number; two: boolean }) {
  const run = pane.run.value;
  const seen = useMemo(view, [run?.question, run?.settings]);
  if (!run)
    return two ? (
      <div class="pane">
        <SettingsLine pane={pane} />
      </div>
    ) : null;
  const answer = run.answer;
  const shown = {
    text: answer?.abstained && answer.answer.trim() === answer.reason?.trim() ? "" : runs.textOf(run),
    tokens: run.tokens,
    sources: run.sources,
    citations: answer?.citations ?? [],
    version: answer?.book.version,
    writing: run.state === "writing" || run.state === "waiting",
    abstained: answer?.abstained ?? false,
  };
  return (
    <div class="pane">
      {two && (
        <>
          <h2 class="side">{index === 0 ? "One" : "The other"}</h2>
          <SettingsLine pane={pane} />
        </>
      )}
      <Announce run={run} />
      <Evidence
        shown={shown}
        view={seen}
        narrow={two}
        label={`the answer to: ${run.question}`}
        heading={
          answer?.abstained
            ? "What was found"
            : shown.writing && !run.tokens.length
              ? "What is being read"
              : "Where it came from"
        }
        above={<State run={run} pane={pane} />}
        below={<Beneath pane={pane} index={index} two={two} />}
      />
    </div>
  );
}

function State({ run, pane }: { run: runs.Run; pane: runs.Pane }) {
  if (run.state === "waiting")
    return <p class="state">{run.progress ? `${run.progress}…` : "looking for passages…"}</p>;
  if (run.state === "failed")
    return (
      <div class="state fault" role="alert">
        <p>{run.error}</p>
        <button type="button" class="link" onClick={() => void runs.ask(pane, run.question)}>
          Ask again
        </button>
      </div>
    );
  if (run.state === "stopped")
    return (
      <p class="state">
        Stopped.{" "}
        <button type="button" class="link" onClick={() => void runs.ask(pane, run.question)}>
          Ask again
        </button>
      </p>
    );
  if (run.answer?.abstained)
    return (
      <div class="abstained">
        <p class="no">Not answered.</p>
        <p class="why" dir="auto">
          {sentence(run.answer.reason) || "Nothing in the book answers this."}
        </p>
        <p class="what">
          See what was found, ask in the documents’ own words
          {!run.settings.anyway && !run.settings.robust && (
            <>
              , or{" "}
              <button type="button" class="link" onClick={() => runs.change(pane, { anyway: true })}>
                answer anyway
              </button>
            </>
          )}
          .
        </p>
        {run.tokens.length > 0 && <p class="what">What the model would have written:</p>}
      </div>
    );
  return null;
}
