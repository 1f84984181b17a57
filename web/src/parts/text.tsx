/** The answer to read. Tokens that the book added are underlined; the arrow keys go from token to token. */

import { useSignalEffect } from "@preact/signals";
import { memo } from "preact/compat";
import { useRef } from "preact/hooks";
import { hue, numbers, type Piece } from "../lib/reading";
import type { Source } from "../lib/types";
import type { View } from "../state/view";
import { lookOf } from "./look";

interface Props {
  pieces: Piece[];
  sources: Source[];
  view: View;
  long: number;
  writing: boolean;
  unsaid: boolean;
}

export const Text = memo(function Text({ pieces, sources, view, long, writing, unsaid }: Props) {
  const root = useRef<HTMLParagraphElement>(null);
  const signs = numbers(sources);
  const first = pieces.findIndex((piece) => piece.tokens.length > 0); // the tab stop, until another is walked to
  const words = (): HTMLElement[] => [...(root.current?.querySelectorAll<HTMLElement>(".t") ?? [])];
  const token = (word: Element | null): number => Number((word as HTMLElement | null)?.dataset.i ?? -1);

  useSignalEffect(() => {
    const at = view.token.value;
    for (const word of words()) {
      const here = at >= token(word) && at < token(word) + Number(word.dataset.n);
      word.classList.toggle("on", here);
    }
  });

  const look = (at: number): void => {
    view.by.value = "text";
    view.token.value = at;
  };

  /** The one tab stop of the answer goes to this word. */
  const walk = (word: HTMLElement | undefined): void => {
    if (!word) return;
    for (const other of words()) other.tabIndex = other === word ? 0 : -1;
    word.focus({ preventScroll: false });
  };

  const press = (event: KeyboardEvent): void => {
    const all = words();
    const at = all.indexOf(document.activeElement as HTMLElement);
    const rightToLeft = root.current !== null && getComputedStyle(root.current).direction === "rtl";
    const marked = (from: number, step: number): HTMLElement | undefined => {
      for (let i = from + step; i >= 0 && i < all.length; i += step) if (all[i]!.dataset.level !== "0") return all[i];
      return undefined;
    };
    const moves: Record<string, () => HTMLElement | undefined> = {
      ArrowRight: () => all[at + (rightToLeft ? -1 : 1)],
      ArrowLeft: () => all[at + (rightToLeft ? 1 : -1)],
      ArrowDown: () => marked(at, 1),
      ArrowUp: () => marked(at, -1),
      Home: () => all[0],
      End: () => all.at(-1),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || at < 0) return;
    if (event.key === "Enter") open(all[at]!);
    else if (event.key === "Escape" && view.token.value >= 0) look(-1);
    else if (moves[event.key]) walk(moves[event.key]!());
    else return;
    event.preventDefault();
  };

  const open = (word: HTMLElement): void => {
    const source = Number(word.dataset.source);
    if (source >= 0) view.opened.value = { source, citation: null };
    look(-1);
  };

  const size = unsaid ? "unsaid" : long > 700 ? "very-long" : long > 220 ? "long" : "brief";
  return (
    <p
      ref={root}
      class={`answer ${size}`}
      dir="auto"
      lang=""
      role="group"
      aria-label="the answer; arrow keys go from word to word"
      aria-busy={writing}
      onPointerOver={(event) => event.pointerType === "mouse" && look(token((event.target as Element).closest(".t")))}
      onPointerLeave={(event) => event.pointerType === "mouse" && look(-1)}
      onClick={(event) => {
        const word = (event.target as Element).closest<HTMLElement>(".t");
        if (word) walk(word);
        if (word) look(token(word));
      }}
      onFocusIn={(event) => {
        const word = (event.target as Element).closest(".t");
        if (word) look(token(word));
      }}
      onFocusOut={() => look(-1)}
      onKeyDown={press}
    >
      {pieces.map((piece, i) => {
        const word = <Word key={i} piece={piece} sign={signs[piece.source]} first={i === first} look={lookOf(view)} />;
        if (!piece.citations.length)
          return (
            <>
              {piece.lead}
              {word}
            </>
          );
        // A number never stands alone at the head of a line, but a word may be longer than any line.
        return (
          <>
            {piece.lead}
            <span class={piece.word.length < 24 ? "tail" : ""}>
              {word}
              <sup>
                {piece.citations.map(({ index, source }) => (
                  <button
                    key={index}
                    type="button"
                    class={`cite ${hue(signs[source])}`}
                    aria-label={`source ${signs[source] ?? ""}: open the cited place`}
                    onClick={() => (view.opened.value = { source, citation: index })}
                  >
                    {signs[source]}
                  </button>
                ))}
              </sup>
            </span>
          </>
        );
      })}
      {writing && <span class="caret" aria-hidden="true" />}
    </p>
  );
});

interface WordProps {
  piece: Piece;
  sign: number | null | undefined;
  first: boolean;
  look: string; // id of what describes it
}

function Word({ piece, sign, first, look }: WordProps) {
  if (!piece.tokens.length) return <>{piece.word}</>;
  return (
    <span
      class={`t l${piece.level}${piece.level ? ` ${hue(sign)}` : ""}${piece.doubted ? " doubted" : ""}`}
      data-i={piece.tokens[0]}
      data-n={piece.tokens.length}
      data-level={piece.level}
      data-source={piece.source}
      tabIndex={first ? 0 : -1}
      aria-describedby={look}
    >
      {piece.word}
    </span>
  );
}
