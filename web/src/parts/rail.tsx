/** The sources with their bars. While a token is looked at, the bars are that token's. */

import { useSignal } from "@preact/signals";
import { percent, signed } from "../lib/format";
import { hue, isOwn, nameOf, numbers, placeOf, shares } from "../lib/reading";
import { clean, short } from "../lib/text";
import type { Source } from "../lib/types";
import type { View } from "../state/view";
import type { Shown } from "./evidence";

const LEAST = 0.005; // a source that carried less shows its figures only when it is opened
const MANY = 8; // sources from which on only the chosen one shows its figures

export function Rail({ shown, view, heading }: { shown: Shown; view: View; heading: string }) {
  const { sources, tokens } = shown;
  const signs = numbers(sources);
  const at = view.token.value;
  const token = at >= 0 ? tokens[at] : undefined;
  const running = shown.writing ? shares(tokens, sources) : null;
  const weighed = !tokens.length; // nothing was written: what is shown is the weight once the question was read
  const share = (source: Source, i: number): number =>
    (token
      ? token.responsibility?.[source.id]
      : weighed
        ? (source.refined ?? source.prior)
        : (running?.[i] ?? source.responsibility)) ?? 0;
  const own = sources.findIndex(isOwn);
  return (
    <aside class={`rail${sources.length > MANY ? " many" : ""}${token ? " looking" : ""}`} aria-label="sources">
      <h2>{token ? "Who carried this word" : heading}</h2>
      <ol class="sources">
        {sources.map((source, i) => (
          <Row
            key={source.id}
            source={source}
            number={signs[i] ?? null}
            share={share(source, i)}
            quiet={
              (shown.writing ?? false) || ((source.responsibility ?? 0) < LEAST && view.opened.value?.source !== i)
            }
            weighed={weighed}
            open={view.opened.value?.source === i}
            onOpen={() => (view.opened.value = { source: i, citation: null })}
          />
        ))}
      </ol>
      {own >= 0 && !weighed && (
        <p class="closed">
          <b>{percent(running?.[own] ?? sources[own]!.responsibility ?? 0)}</b> is the closed book: what the model
          carried from its own memory.
        </p>
      )}
      <p class="caveat">A colour says which source caused a word. Whether it supports the claim is for you to read.</p>
      <Meanings weighed={weighed} />
    </aside>
  );
}

interface RowProps {
  source: Source;
  number: number | null;
  share: number;
  quiet: boolean;
  weighed: boolean;
  open: boolean;
  onOpen: () => void;
}

function Row({ source, number, share, quiet, weighed, open, onOpen }: RowProps) {
  const documents = source.members?.length
    ? [...new Set(source.members.map((member) => clean(member.document)))]
    : [nameOf(source)];
  const heading = short(source.heading, 120);
  const place = placeOf(source);
  const readable = Boolean(source.text || source.members?.length || source.kind === "neighbours");
  const inside = (
    <>
      <span class="number">{number ?? "·"}</span>
      <b
        class="name"
        title={documents.some((name) => name.length > 60) ? short(documents.join(" + "), 600) : undefined}
      >
        {documents.map((name, i) => (
          <Name key={i} name={short(name, 120)} after={i > 0} />
        ))}
      </b>
      <span class="share">{percent(share)}</span>
      {(place || heading) && (
        <span class="place">
          {place}
          {place && heading ? " · " : ""}
          <bdi>{heading}</bdi>
        </span>
      )}
      <span class="bar" aria-hidden="true">
        <i style={{ width: `${100 * Math.min(1, share)}%` }} />
      </span>
      {!quiet && !weighed && <Figures source={source} />}
    </>
  );
  return (
    <li class={`source ${hue(number)}`}>
      {readable ? (
        <button type="button" class="row" aria-expanded={open} onClick={onOpen}>
          {inside}
        </button>
      ) : (
        <div class="row">{inside}</div>
      )}
    </li>
  );
}

function Name({ name, after }: { name: string; after: boolean }) {
  const slash = name.lastIndexOf("/", name.length - 2) + 1;
  return (
    <>
      {after && " + "}
      <bdi>
        <span class="folder">{name.slice(0, slash)}</span>
        {name.slice(slash)}
      </bdi>
    </>
  );
}

function Figures({ source }: { source: Source }) {
  const { prior, refined, bits, necessity, sufficiency } = source;
  return (
    <span class="figures">
      {prior != null && (
        <span>
          prior {prior.toFixed(2)}
          {refined != null && ` → ${refined.toFixed(2)}`}
        </span>
      )}
      {bits != null && <span>{signed(bits)} bits</span>}
      {necessity != null && <span>left out: {signed(-necessity)}</span>}
      {sufficiency != null && <span>alone: {signed(sufficiency)}</span>}
      {(source.members ?? []).map(
        (member, i) =>
          member.left_out != null && (
            <span key={i} class="member">
              <bdi>{short(clean(member.document), 60)}</bdi> left out: {signed(-member.left_out)}
            </span>
          ),
      )}
    </span>
  );
}

function Meanings({ weighed }: { weighed: boolean }) {
  const open = useSignal(false);
  return (
    <div class="meanings">
      <button type="button" class="link" aria-expanded={open.value} onClick={() => (open.value = !open.value)}>
        What the figures mean
      </button>
      {open.value && (
        <dl>
          <dt>%</dt>
          <dd>
            {weighed
              ? "nothing was written, so this is the weight once the question was read"
              : "responsibility: the share of the answer that this source carried, the mean over its tokens"}
          </dd>
          <dt>prior</dt>
          <dd>its weight from the search → after the question was read</dd>
          <dt>bits</dt>
          <dd>its part of what the book added; one bit makes the words twice as likely as the model alone would</dd>
          <dt>left out</dt>
          <dd>what ln p(answer) changes by without this source (necessity)</dd>
          <dt>alone</dt>
          <dd>ln p(answer) with this source only (sufficiency); nearer to 0 is better</dd>
        </dl>
      )}
    </div>
  );
}
