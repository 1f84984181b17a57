/** What the datastore carried (kNN-LM): words of the answer, each with the place that it was remembered from. */

import { percent } from "../lib/format";
import { clean, short } from "../lib/text";
import type { Neighbour, Token } from "../lib/types";

const MOST = 8; // words that are told of: those of which it carried most

export function Remembered({ tokens, source }: { tokens: Token[]; source: string }) {
  const share = (token: Token): number => token.responsibility?.[source] ?? 0;
  const told = tokens.filter((token) => token.neighbours?.length && share(token) > 0);
  const least = told.map(share).sort((a, b) => b - a)[MOST - 1] ?? 0;
  const chosen = told.filter((token) => share(token) >= least).slice(0, MOST);
  return (
    <ol class="remembered">
      {chosen.map((token, i) => (
        <li key={i}>
          <p>
            <b>{clean(token.text).trim() || "\u2423"}</b> <span class="faint">{percent(share(token))}</span>
          </p>
          <Place neighbour={token.neighbours![0]!} />
        </li>
      ))}
    </ol>
  );
}

/** A neighbour in its context. */
export function Place({ neighbour }: { neighbour: Neighbour }) {
  const word = clean(neighbour.text).trimStart();
  return (
    <p>
      <span dir="auto">
        …{clean(neighbour.before).trimEnd()} <mark>{word}</mark>
        {clean(neighbour.after)}…
      </span>{" "}
      <span class="faint">
        <bdi>{short(neighbour.document, 90)}</bdi>
        {neighbour.line != null && `, line ${neighbour.line}`}
      </span>
    </p>
  );
}
