/** A question that is answered in one piece: a look-up, a check, a summary. */

import { effect, signal } from "@preact/signals";
import { aborted, message, post } from "../lib/client";
import { ready, turns } from "./books";

export type Outcome<T> =
  { state: "none" } | { state: "waiting" } | { state: "failed"; error: string } | { state: "done"; value: T };

export function asking<T>(path: () => string, body: (text: string) => unknown) {
  const text = signal("");
  const outcome = signal<Outcome<T>>({ state: "none" });
  let control: AbortController | null = null;
  effect(() => {
    if (!turns.value) return;
    control?.abort();
    outcome.value = { state: "none" };
  });
  return {
    text,
    outcome,
    async ask(asked: string): Promise<void> {
      control?.abort();
      const mine = (control = new AbortController());
      text.value = asked;
      outcome.value = { state: "waiting" };
      try {
        await ready;
        const value = await post<T>(path(), body(asked), mine.signal);
        if (control === mine) outcome.value = { state: "done", value };
      } catch (error) {
        if (control === mine)
          outcome.value = aborted(error) ? { state: "none" } : { state: "failed", error: message(error) };
      }
    },
    stop(): void {
      control?.abort();
    },
  };
}

export type Asking<T> = ReturnType<typeof asking<T>>;
