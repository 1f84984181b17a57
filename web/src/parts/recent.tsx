/** The last questions, to be opened again. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get } from "../lib/client";
import { short } from "../lib/text";
import type { Kept } from "../lib/types";
import { go } from "../state/place";
import { address } from "./history";

export function Recent() {
  const kept = useSignal<Kept[]>([]);
  useEffect(() => {
    get<{ data: Kept[] }>("/v1/answers?limit=5").then(
      (found) => (kept.value = found.data),
      () => undefined,
    );
  }, []);
  if (!kept.value.length) return null;
  return (
    <section class="recent" aria-label="asked before">
      <h2>Asked before</h2>
      <ul>
        {kept.value.slice(0, 5).map((each) => (
          <li key={address(each)}>
            <button type="button" class="link plain" dir="auto" onClick={() => go("history", address(each))}>
              {short(each.question, 140)}
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
