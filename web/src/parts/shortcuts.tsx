/** Keys: what they do, and a switch, since a single key can be pressed by accident or by a voice. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { keys } from "../state/looks";
import { go, PARTS } from "../state/place";
import { Dialog } from "./dialog";

const KEYS: [string, string][] = [
  ["/", "to the question"],
  ["Enter", "ask (Shift+Enter: a new line)"],
  ["← →", "in the answer: from word to word"],
  ["↑ ↓", "in the answer: to the next word that the book added"],
  ["Enter", "on a word: open its source"],
  ["1 – 9", "open that source"],
  ["Esc", "close what is open; while writing: stop"],
  ["g, then a letter", `go to a part: ${PARTS.map(([, label]) => label).join(", ")} (their first letter)`],
  ["+ − 0", "in the map: nearer, farther, all of it; arrows move"],
  ["?", "this list"],
];

export function Shortcuts() {
  const open = useSignal(false);
  useEffect(() => {
    let led = 0; // when `g` was pressed
    const press = (event: KeyboardEvent): void => {
      const inField = (event.target as Element).closest(
        "input:not([type=range], [type=checkbox]), textarea, select, dialog",
      );
      const elsewhere = event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]");
      if (event.key === "Escape" && !elsewhere) escape();
      if (inField || event.ctrlKey || event.metaKey || event.altKey || keys.value === "off") return;
      const part = event.timeStamp - led < 1500 ? PARTS.find(([name]) => name[0] === event.key) : undefined;
      led = event.key === "g" ? event.timeStamp : 0;
      if (part) go(part[0]);
      else if (event.key === "?") open.value = true;
      else if (event.key === "/") document.querySelector<HTMLElement>("#question, [data-ask], [type=search]")?.focus();
      else if (/^[1-9]$/.test(event.key))
        document.querySelectorAll<HTMLElement>(".source button.row")[Number(event.key) - 1]?.click();
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
  return (
    <>
      <button type="button" class="link" onClick={() => (open.value = true)}>
        Keys
      </button>
      {open.value && (
        <Dialog title="Keys" onClose={() => (open.value = false)}>
          <dl class="keys">
            {KEYS.map(([key, what], i) => [
              <dt key={`k${i}`}>
                <kbd>{key}</kbd>
              </dt>,
              <dd key={`w${i}`}>{what}</dd>,
            ])}
          </dl>
          <label class="tick">
            <input
              type="checkbox"
              checked={keys.value === "on"}
              onChange={(event) => (keys.value = event.currentTarget.checked ? "on" : "off")}
            />
            single keys are shortcuts
          </label>
        </Dialog>
      )}
    </>
  );
}

function escape(): void {
  const close = document.querySelector<HTMLElement>(".reader .close");
  const stop = document.querySelector<HTMLElement>(".box button[type=button].act");
  (stop ?? close)?.click();
}
