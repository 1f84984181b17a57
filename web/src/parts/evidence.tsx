/** An answer with its evidence: the text, the strip, the sources, and the passage that is open. */

import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import { signed } from "../lib/format";
import { pieces, total } from "../lib/reading";
import { direction } from "../lib/text";
import type { Citation, Sentence, Source, Token } from "../lib/types";
import type { View } from "../state/view";
import { Look } from "./look";
import { Rail } from "./rail";
import { Reader } from "./reader";
import { Strip } from "./strip";
import { Text } from "./text";

export interface Shown {
  text: string;
  tokens: Token[];
  sources: Source[];
  citations: Citation[];
  sentences?: Sentence[];
  version?: number | undefined; // of the book, to open documents as they were
  writing?: boolean;
  abstained?: boolean;
}

interface Props {
  shown: Shown;
  view: View;
  heading?: string;
  above?: ComponentChildren; // before the text
  below?: ComponentChildren; // after the legend
  narrow?: boolean; // one column: sources beneath the text
  label: string;
}

/** Another answer's evidence begins anew: nothing of it may listen to what is pointed at in the one before. */
export function Evidence(props: Props) {
  return <Account key={props.view.id} {...props} />;
}

function Account({ shown, view, heading, above, below, narrow, label }: Props) {
  const { text, tokens, sources, citations, sentences } = shown;
  const cut = useMemo(
    () => pieces(text, tokens, sources, citations, sentences),
    [text, tokens, sources, citations, sentences],
  );
  const bits = useMemo(() => total(tokens), [tokens]);
  return (
    <div class={narrow ? "evidence narrow" : "evidence"}>
      <section class="said" aria-label={label}>
        {above}
        {text && (
          <Text
            pieces={cut}
            sources={sources}
            view={view}
            long={text.length}
            writing={shown.writing ?? false}
            unsaid={shown.abstained ?? false}
          />
        )}
        {tokens.length > 0 && (
          <>
            <Strip tokens={tokens} sources={sources} view={view} dir={direction(text)} />
            <p class="caption">
              <span>a column a token: height is what the book added, colour who carried it</span>
              <span class="total" title="log₂ p(text) with the book, less log₂ p(text) of the model alone">
                <b>{signed(bits)} bits</b> from the book
              </span>
            </p>
            <Legend judged={sentences !== undefined} />
          </>
        )}
        {below}
      </section>
      {sources.length > 0 && <Rail shown={shown} view={view} heading={heading ?? "Where it came from"} />}
      {view.opened.value && <Reader shown={shown} view={view} />}
      <Look tokens={tokens} sources={sources} view={view} />
    </div>
  );
}

function Legend({ judged }: { judged: boolean }) {
  return (
    <p class="legend">
      <span>
        <span class="key l1 s1">under</span>
        <span class="key l3 s1">li</span>
        <span class="key l5 s1">ned</span> the book added it: the stronger, the more bits
      </span>
      <span>
        <span class="key">plain</span> the model would have written it anyway
      </span>
      {judged && (
        <span>
          <span class="key doubted">wavy</span> nothing carries it
        </span>
      )}
    </p>
  );
}
