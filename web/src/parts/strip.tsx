/** A column a token: its height is the bits that the book added, its colours the responsibilities. */

import { useSignalEffect } from "@preact/signals";
import { memo } from "preact/compat";
import { useRef } from "preact/hooks";
import { hue, numbers } from "../lib/reading";
import type { Source, Token } from "../lib/types";
import type { View } from "../state/view";

const LEAST = 4; // bits that fill a column where no token has more

export const Strip = memo(function Strip({
  tokens,
  sources,
  view,
  dir,
}: {
  tokens: Token[];
  sources: Source[];
  view: View;
  dir: "rtl" | "ltr";
}) {
  const root = useRef<HTMLDivElement>(null);
  const signs = numbers(sources);
  const tallest = Math.max(LEAST, ...tokens.map((token) => token.bits ?? 0));

  useSignalEffect(() => {
    const at = view.token.value;
    [...(root.current?.children ?? [])].forEach((column, i) => column.classList.toggle("on", i === at));
  });

  const look = (event: PointerEvent): void => {
    const column = (event.target as Element).closest("i");
    if (!column) return;
    view.by.value = "strip";
    view.token.value = [...column.parentElement!.children].indexOf(column);
  };
  return (
    <div
      ref={root}
      class={tokens.length > 100 ? "strip many" : "strip"}
      role="img"
      dir={dir}
      aria-label={`what the book added to each of ${tokens.length} tokens, and which source carried it; the words of the answer say the same`}
      onPointerOver={look}
      onPointerDown={look}
      onPointerLeave={(event) => event.pointerType === "mouse" && (view.token.value = -1)}
      style={{ maxWidth: `${2.75 * tokens.length}rem` }}
    >
      {tokens.map((token, i) => {
        const added = Math.max(0, token.bits ?? 0);
        return (
          <i key={i}>
            <b
              style={{ height: `${8 + (92 * added) / tallest}%`, opacity: String(0.4 + 0.6 * Math.min(1, added / 3)) }}
            >
              {sources.map((source, s) => {
                const share = token.responsibility?.[source.id] ?? 0;
                return share >= 0.01 && <u key={source.id} class={hue(signs[s])} style={{ flexGrow: String(share) }} />;
              })}
            </b>
          </i>
        );
      })}
    </div>
  );
});
