/** What the reader looks at in one answer: a token, and the passage that is open beneath. */

import { signal, type Signal } from "@preact/signals";

export interface Opened {
  source: number; // index among the answer's sources
  citation: number | null; // the citation that was followed
}

export interface View {
  id: number;
  token: Signal<number>; // −1: none
  by: Signal<"text" | "strip">; // where it was pointed at: the figures appear there
  opened: Signal<Opened | null>;
}

let views = 0;
export const view = (): View => ({
  id: views++,
  token: signal(-1),
  by: signal<"text" | "strip">("text"),
  opened: signal<Opened | null>(null),
});
