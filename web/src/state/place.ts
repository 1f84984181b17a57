/** Where the reader is: the part of the page, held in the address after `#`, so that it can be linked and gone back to. */

import { computed, signal } from "@preact/signals";

export const PARTS = [
  ["ask", "Ask"],
  ["documents", "Documents"],
  ["map", "Map"],
  ["faq", "FAQ"],
  ["check", "Check"],
  ["overview", "Overview"],
  ["history", "History"],
] as const;
export type Part = (typeof PARTS)[number][0];

const hash = signal(location.hash);
addEventListener("hashchange", () => (hash.value = location.hash));

/** `#/documents/notes/a.md` → ["documents", "notes/a.md"]. */
export const place = computed((): [Part, string] => {
  const [, part = "", rest = ""] = /^#\/([a-z]*)\/?(.*)$/.exec(hash.value) ?? [];
  const known = PARTS.some(([name]) => name === part) ? (part as Part) : "ask";
  try {
    return [known, decodeURIComponent(rest)];
  } catch {
    return [known, ""];
  }
});

export const part = computed(() => place.value[0]);

/** Goes there; `instead` of the place where the reader is, which is then not gone back to. */
export function go(to: Part, rest = "", instead = false): void {
  const address = `#/${to}${rest ? `/${encodeURIComponent(rest)}` : ""}`;
  if (instead) location.replace(address);
  else location.hash = address;
}
