/** Answers given, newest first; each can be opened again with its evidence. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get, message } from "../lib/client";
import { when } from "../lib/format";
import { short } from "../lib/text";
import type { Answer, Kept } from "../lib/types";
import * as books from "../state/books";
import { go, place } from "../state/place";
import { recall } from "../state/runs";

const SOME = 50;

/** Opens an answer again: `#/history/notes:12`. */
export const address = (kept: Kept): string => `${kept.book}:${kept.id}`;

/** Shows an answer of a book, with that book open: its sources are read there, and a change asks there. */
async function reopen(book: string, id: string, signal: AbortSignal): Promise<void> {
  const answer = await get<Answer>(`/v1/answers/${encodeURIComponent(id)}?book=${encodeURIComponent(book)}`, signal);
  await books.ready;
  if (book !== books.name.value && books.books.value.some((each) => each.name === book)) await books.choose(book);
  signal.throwIfAborted();
  recall(answer);
  go("ask", "", true);
}

export function History() {
  const kept = useSignal<Kept[] | null>(null);
  const most = useSignal(SOME);
  const fault = useSignal("");
  const wanted = place.value[1];
  useEffect(() => {
    get<{ data: Kept[] }>(`/v1/answers?limit=${most.value}`).then(
      (found) => (kept.value = found.data),
      (error: unknown) => (fault.value = message(error)),
    );
  }, [most.value]);
  useEffect(() => {
    const cut = wanted.lastIndexOf(":");
    if (cut < 0) return;
    const control = new AbortController();
    reopen(wanted.slice(0, cut), wanted.slice(cut + 1), control.signal).catch(
      (error: unknown) => control.signal.aborted || (fault.value = message(error)),
    );
    return () => control.abort();
  }, [wanted]);
  return (
    <div class="room plain">
      <h1>Answers given</h1>
      {fault.value && (
        <p class="state fault" role="alert">
          {fault.value}
        </p>
      )}
      {kept.value?.length === 0 && <p class="lead">None yet.</p>}
      <ol class="answers">
        {(kept.value ?? []).map((each) => (
          <li key={address(each)}>
            <a href={`#/history/${encodeURIComponent(address(each))}`}>
              <b dir="auto">{short(each.question, 200)}</b>
              <span class="gist" dir="auto">
                {each.abstained ? "Not answered." : short(each.answer, 240)}
              </span>
            </a>
            <span class="faint">
              {books.books.value.length > 1 && (
                <>
                  <bdi>{short(each.book, 40)}</bdi> ·{" "}
                </>
              )}
              {when(each.when)}
            </span>
          </li>
        ))}
      </ol>
      {(kept.value?.length ?? 0) >= most.value && (
        <button type="button" class="link" onClick={() => (most.value += 4 * SOME)}>
          show older ones
        </button>
      )}
    </div>
  );
}
