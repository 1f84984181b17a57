/** Questions being answered: one pane, or two side by side, each with its own settings. */

import { effect, signal, type Signal } from "@preact/signals";
import { aborted, message, streamed } from "../lib/client";
import type { Answer, Source, Token } from "../lib/types";
import * as books from "./books";

export interface Settings {
  persistence: number;
  passages: number;
  lambda_knn: number;
  version: string; // "": the live one
  model: string; // "": the first that is served
  way: string;
  robust: string; // bad passages that every word withstands; "": not asked for
  anyway: boolean;
}

export const DEFAULTS: Settings = {
  persistence: 0.5,
  passages: 5,
  lambda_knn: 0,
  version: "",
  model: "",
  way: "passages",
  robust: "",
  anyway: false,
};

export type State = "waiting" | "writing" | "done" | "failed" | "stopped";

/** One answer on its way, or arrived. */
export interface Run {
  question: string;
  settings: Settings;
  state: State;
  progress: string;
  sources: Source[];
  tokens: Token[];
  answer: Answer | null;
  error: string;
}

export interface Pane {
  settings: Signal<Settings>;
  run: Signal<Run | null>;
  before: Signal<Run | null>; // the answer that a change of settings replaced
}

const pane = (settings: Settings, run: Run | null = null): Pane => ({
  settings: signal(settings),
  run: signal(run),
  before: signal(null),
});

export const question = signal("");
export const panes = signal<Pane[]>([pane(DEFAULTS)]);
const going = new WeakMap<Pane, AbortController>();

// Another book has other versions, and its answers other passages: begin anew.
effect(() => {
  if (!books.turns.value) return;
  panes.peek().forEach(stop);
  panes.value = [pane(DEFAULTS)];
  question.value = "";
});

/** The text so far: of a finished answer its own. */
export const textOf = (run: Run): string => run.answer?.answer ?? run.tokens.map((token) => token.text).join("");

interface Chunk {
  error?: { message?: string };
  openbook?: { token?: Token; sources?: Source[]; answer?: Answer };
}

/** Asks the question in a pane; what was asked there before is given up. */
export async function ask(one: Pane, asked: string): Promise<void> {
  stop(one);
  const control = new AbortController();
  going.set(one, control);
  const settings = one.settings.value;
  let run: Run = {
    question: asked,
    settings,
    state: "waiting",
    progress: "",
    sources: [],
    tokens: [],
    answer: null,
    error: "",
  };
  const set = (change: Partial<Run>): void => {
    if (going.get(one) === control) one.run.value = run = { ...run, ...change };
  };
  set({});
  await books.ready; // a question may be quicker than the list of books
  try {
    for await (const sent of streamed("/v1/chat/completions", body(asked, settings), control.signal)) {
      if ("comment" in sent) {
        set({ progress: sent.comment });
        continue;
      }
      const { error, openbook } = sent.chunk as Chunk;
      if (error) throw new Error(error.message ?? "The server could not go on.");
      if (openbook?.sources) set({ sources: openbook.sources });
      if (openbook?.token) set({ state: "writing", tokens: [...run.tokens, openbook.token] });
      if (openbook?.answer) {
        const answer = openbook.answer;
        set({ state: "done", answer, sources: answer.sources, tokens: answer.tokens ?? [] });
      }
    }
    if (run.state !== "done") throw new Error("The answer broke off. Ask again; the server's terminal says more.");
  } catch (error) {
    set(aborted(error) ? { state: "stopped" } : { state: "failed", error: message(error) });
  }
}

function body(asked: string, settings: Settings): unknown {
  const { version, model, robust, ...rest } = settings;
  const chosen = {
    ...rest,
    ...(robust ? { robust: Number(robust) } : {}),
    ...(version ? { version: Number(version) || version } : {}),
    ...(model ? { model } : {}),
  };
  return {
    model: `openbook:${books.name.value}`,
    messages: [{ role: "user", content: asked }],
    stream: true,
    openbook: { book: books.name.value, ...chosen },
  };
}

/** Asks in every pane. */
export function askAll(asked: string): void {
  question.value = asked;
  for (const one of panes.value) {
    one.before.value = null;
    void ask(one, asked);
  }
}

export function stop(one: Pane): void {
  clearTimeout(soon.get(one));
  const control = going.get(one);
  control?.abort();
  const run = one.run.value;
  if (run && (run.state === "waiting" || run.state === "writing")) one.run.value = { ...run, state: "stopped" };
}

const PAUSE = 350; // milliseconds after the last change until it is asked again
const soon = new WeakMap<Pane, ReturnType<typeof setTimeout>>(); // panes that will be asked again

/** Changes a setting; where something was asked it is asked again, and what stood there is kept to be compared. */
export function change(one: Pane, settings: Partial<Settings>): void {
  one.settings.value = { ...one.settings.value, ...settings };
  const run = one.run.value;
  if (!run) return;
  clearTimeout(soon.get(one));
  const again = (): void => {
    if (run.state === "done") one.before.value = run;
    void ask(one, run.question);
  };
  soon.set(one, setTimeout(again, PAUSE));
}

/** A second pane beside the first: with what stood there before a change, or with the same settings. */
export function compare(): void {
  const first = panes.value[0]!;
  const before = first.before.value;
  const second = pane(before?.settings ?? first.settings.value, before ?? first.run.value);
  panes.value = before ? [second, first] : [first, second];
  first.before.value = null;
}

export function single(index: number): void {
  panes.value.forEach((one, i) => i !== index && stop(one));
  panes.value = [panes.value[index]!];
}

/** Shows an answer that was given before. */
export function recall(answer: Answer): void {
  const settings = { ...DEFAULTS, ...pick(answer.settings ?? {}) };
  const run: Run = {
    question: answer.question ?? "",
    settings,
    state: "done",
    progress: "",
    sources: answer.sources,
    tokens: answer.tokens ?? [],
    answer,
    error: "",
  };
  panes.value.forEach(stop);
  panes.value = [pane(settings, run)];
  question.value = run.question;
}

function pick(settings: Record<string, unknown>): Partial<Settings> {
  const found: Partial<Settings> = {};
  for (const key of ["persistence", "passages", "lambda_knn"] as const)
    if (typeof settings[key] === "number") found[key] = settings[key];
  return found;
}
