/** What one token rests on: its probability, bits, sources and certificate, beside the token. */

import { useLayoutEffect, useRef } from "preact/hooks";
import { chance, percent, signed } from "../lib/format";
import { hue, nameOf, numbers } from "../lib/reading";
import { clean, short } from "../lib/text";
import type { Source, Token } from "../lib/types";
import type { View } from "../state/view";

const MOST = 5; // sources that are named
const LEAST = 0.005; // a smaller share is not

/** What describes the words of a view. */
export const lookOf = (view: View): string => `look-${view.id}`;

export function Look({ tokens, sources, view }: { tokens: Token[]; sources: Source[]; view: View }) {
  const box = useRef<HTMLDivElement>(null);
  const at = view.token.value;
  const by = view.by.value;
  const token = tokens[at];

  useLayoutEffect(() => {
    const here = box.current;
    const pane = here?.parentElement;
    if (!here || !pane || !token) return;
    const words = [...pane.querySelectorAll<HTMLElement>(".answer .t")];
    const word = words.find(
      (each) => at >= Number(each.dataset.i) && at < Number(each.dataset.i) + Number(each.dataset.n),
    );
    const anchor = by === "strip" ? pane.querySelectorAll(".strip > i")[at] : word;
    if (anchor) beside(here, anchor, by === "strip");
  });

  if (!token) return <div ref={box} id={lookOf(view)} class="look" role="tooltip" hidden />;
  const signs = numbers(sources);
  const carried = sources
    .map((source, i) => ({ source, number: signs[i] ?? null, share: token.responsibility?.[source.id] ?? 0 }))
    .filter(({ share }) => share >= LEAST)
    .sort((a, b) => b.share - a.share);
  return (
    <div ref={box} id={lookOf(view)} class="look" role="tooltip">
      <p class="head">
        <b>{clean(token.text).trim() || "\u2423"}</b>
        <span>
          token {at + 1} of {tokens.length}
        </span>
      </p>
      <p class="sum">
        p {chance(token.p)}
        {token.bits !== null && ` · ${token.bits > 0.05 ? "+" : ""}${signed(token.bits)} bits from the book`}
      </p>
      <ul>
        {carried.slice(0, MOST).map(({ source, number, share }) => (
          <li key={source.id} class={hue(number)}>
            <span class="number">{number ?? "·"}</span>
            <span class="meter" aria-hidden="true">
              <i style={{ width: `${100 * Math.min(1, share)}%` }} />
            </span>
            <span class="value">{percent(share)}</span>
            <span class="of">
              <bdi>{short(nameOf(source).split("/").at(-1), 40)}</bdi>
            </span>
          </li>
        ))}
      </ul>
      {carried.length > MOST && <p class="note">and {carried.length - MOST} more</p>}
      {token.certified !== null && token.certified !== undefined && (
        <p class="note">
          {token.certified > 0
            ? `certified: ${token.certified} bad passage${token.certified > 1 ? "s" : ""} could not change it`
            : "not certified: one bad passage could change it"}
        </p>
      )}
    </div>
  );
}

/** Above the word (what has been read already), below a column; on a narrow page the style sheet holds it at the foot. */
function beside(box: HTMLElement, anchor: Element, below: boolean): void {
  const at = anchor.getClientRects()[0] ?? anchor.getBoundingClientRect();
  const { width, height } = box.getBoundingClientRect();
  const room = document.documentElement.clientWidth - width - 8;
  const top = at.top - height - 10;
  box.style.left = `${Math.max(8, Math.min(at.left + at.width / 2 - width / 2, room)) + scrollX}px`;
  box.style.top = `${(top > 0 && !below ? top : at.bottom + 10) + scrollY}px`;
}
