/** For screen readers: the answer as it comes, a sentence at a time, and how it ended. */

import { useEffect, useRef } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { clean } from "../lib/text";
import { textOf, type Run } from "../state/runs";

/** How much of a text is whole sentences. */
function ended(text: string): number {
  let at = 0;
  for (const found of text.matchAll(/[.!?。！？]["'”’)\]]*\s|\n/g)) at = found.index + found[0].length;
  return at;
}

export function Announce({ run }: { run: Run }) {
  const told = useRef(0);
  const said = useSignal("");
  const text = textOf(run);
  useEffect(() => {
    if (run.state === "waiting") {
      told.current = 0;
      said.value = "Looking for passages.";
    } else if (run.state === "writing" && ended(text) > told.current) {
      said.value = clean(text.slice(told.current, ended(text)));
      told.current = ended(text);
    } else if (run.state === "done") {
      const close = run.answer?.abstained
        ? `Not answered. ${run.answer.reason ?? ""}`
        : `${clean(text.slice(told.current))} End of the answer.`;
      said.value = close;
    } else if (run.state === "stopped") said.value = "Stopped.";
  }, [run.state, text]);
  return (
    <p class="hidden" aria-live="polite">
      {said.value}
    </p>
  );
}
