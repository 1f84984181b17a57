/** The document at the place: its text around the passage, the cited words marked; of a PDF the page as a picture. */

import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { call, get, message, named } from "../lib/client";
import { hue, marks, nameOf, numbers, placeOf } from "../lib/reading";
import { clean, Points, short } from "../lib/text";
import type { DocText, Member, Source, Span } from "../lib/types";
import * as books from "../state/books";
import { calm } from "../state/looks";
import type { View } from "../state/view";
import type { Shown } from "./evidence";
import { Remembered } from "./remembered";

const AROUND = 4_000; // characters of the document before and after the passage, to begin with
const FURTHER = 20_000;

export function Reader({ shown, view }: { shown: Shown; view: View }) {
  const opened = view.opened.value;
  const source = opened ? shown.sources[opened.source] : undefined;
  const member = useSignal(0);
  const paged = useSignal(true);
  const box = useRef<HTMLElement>(null);
  const cited = opened?.citation != null ? shown.citations[opened.citation] : undefined;
  useEffect(() => {
    member.value = cited?.member ?? 0;
  }, [opened]);
  useLayoutEffect(
    () => box.current?.scrollIntoView({ block: "nearest", behavior: calm() ? "auto" : "smooth" }),
    [opened],
  );
  if (!opened || !source) return null;
  const number = numbers(shown.sources)[opened.source] ?? null;
  const members = source.members ?? [];
  const passage: Source | Member = members[member.value] ?? source;
  const places = shown.citations
    .map((citation, i) => ({ span: citation.source_span, citation: i, citing: citation }))
    .filter(({ citing }) => citing.source === source.id && (!members.length || (citing.member ?? 0) === member.value));
  const page = passage.page ?? null;
  const name = members.length ? (passage as Member).document : nameOf(source);
  const document = (members.length ? (passage as Member).document : source.document) ?? ""; // as it is stored
  return (
    <section ref={box} class={`reader ${hue(number)}`} aria-label={`the passage of source ${number ?? ""}`}>
      <header>
        <h3>
          <span class="number">{number ?? "·"}</span>
          <bdi title={name.length > 90 ? short(name, 600) : undefined}>{short(name, 90)}</bdi>
          <span class="faint">{placeOf(passage)}</span>
        </h3>
        {members.length > 1 &&
          members.map((each, i) => (
            <button
              key={i}
              type="button"
              class="link"
              aria-pressed={i === member.value}
              onClick={() => (member.value = i)}
            >
              <bdi>{short(each.document.split("/").at(-1), 40)}</bdi>
            </button>
          ))}
        {page !== null && (
          <button type="button" class="link" onClick={() => (paged.value = !paged.value)}>
            {paged.value ? "as text" : "as a page"}
          </button>
        )}
        <button type="button" class="close" aria-label="close the passage" onClick={() => (view.opened.value = null)}>
          ×
        </button>
      </header>
      {source.kind === "neighbours" ? (
        <Remembered tokens={shown.tokens} source={source.id} />
      ) : page !== null && paged.value ? (
        <Page
          key={`${name}·${page}`}
          document={document}
          first={page}
          passage={passage}
          places={places.map(({ span }) => span)}
          version={shown.version}
          onNone={() => (paged.value = false)}
        />
      ) : (
        <Words
          key={`${name}·${passage.span?.[0]}`}
          document={document}
          passage={passage}
          places={places}
          chosen={opened.citation}
          version={shown.version}
        />
      )}
    </section>
  );
}

interface WordsProps {
  document: string;
  passage: Source | Member;
  places: { span: Span; citation: number }[];
  chosen: number | null;
  version: number | undefined;
}

export function Words({ document, passage, places, chosen, version }: WordsProps) {
  const whole = useSignal<Points | null>(null);
  const around = useSignal<[number, number]>([AROUND, AROUND]);
  const box = useRef<HTMLDivElement>(null);
  const [start, end] = passage.span ?? [0, 0];
  useEffect(() => {
    const control = new AbortController();
    const at = version ? `?at=${version}` : "";
    // Where the document is gone meanwhile, the passage, which the answer holds, is all there is to show.
    if (passage.span && document)
      get<DocText>(books.path(`/documents/${named(document)}${at}`), control.signal).then(
        (found) => (whole.value = new Points(found.text)),
        () => undefined,
      );
    return () => control.abort();
  }, [document]);
  useLayoutEffect(() => {
    const text = box.current;
    const mark =
      text?.querySelector<HTMLElement>("mark.on") ??
      text?.querySelector<HTMLElement>("mark") ??
      text?.querySelector<HTMLElement>(".passage");
    if (text && mark) text.scrollTop = mark.offsetTop - text.clientHeight / 3;
  }, [whole.value, chosen]);
  const before = whole.value ? Math.max(0, start - around.value[0]) : start;
  const after = whole.value ? Math.min(whole.value.length, end + around.value[1]) : end;
  const more = (side: 0 | 1): void => {
    around.value = around.value.map((long, i) => (i === side ? long + FURTHER : long)) as [number, number];
  };
  return (
    <div class="words" ref={box} dir="auto" lang="" tabIndex={0} role="region" aria-label="text of the document">
      {whole.value && before > 0 && (
        <button type="button" class="link more" onClick={() => more(0)}>
          what stands before
        </button>
      )}
      {whole.value && <span class="around">{clean(whole.value.slice(before, start))}</span>}
      <span class="passage">
        {marks(passage.text ?? "", start, places).map((mark, i) =>
          mark.citations.length ? (
            <mark key={i} class={chosen !== null && mark.citations.includes(chosen) ? "on" : ""}>
              {mark.text}
            </mark>
          ) : (
            mark.text
          ),
        )}
      </span>
      {whole.value && <span class="around">{clean(whole.value.slice(end, after))}</span>}
      {whole.value && after < whole.value.length && (
        <button type="button" class="link more" onClick={() => more(1)}>
          what stands after
        </button>
      )}
    </div>
  );
}

interface PageProps {
  document: string;
  first: number;
  last?: number | undefined;
  passage: Source | Member;
  places: Span[];
  version: number | undefined;
  onNone: () => void;
}

export function Page({ document, first, last, passage, places, version, onNone }: PageProps) {
  const page = useSignal(first);
  const picture = useSignal("");
  const said = useSignal("");
  const spans = (places.length ? places : passage.span ? [passage.span] : [])
    .map((span) => `&span=${span.join("-")}`)
    .join("");
  useEffect(() => {
    let gone = false;
    said.value = "";
    call(
      books.path(
        `/pages/${page.value}?document=${encodeURIComponent(document)}${spans}${version ? `&at=${version}` : ""}`,
      ),
    )
      .then((response) => response.blob())
      .then(
        (blob) => {
          if (!gone) picture.value = URL.createObjectURL(blob);
        },
        (error: unknown) => {
          if (gone) return;
          if (page.value === first) onNone();
          else said.value = message(error);
        },
      );
    return () => {
      gone = true;
    };
  }, [page.value]);
  useEffect(() => {
    const shown = picture.value; // by the time it is put away the signal holds the next one
    return () => URL.revokeObjectURL(shown);
  }, [picture.value]);
  return (
    <div class="page">
      <p class="turn">
        <button type="button" class="link" disabled={page.value <= 1} onClick={() => page.value--}>
          previous page
        </button>
        <span>
          page {page.value}
          {last && ` of ${last}`}
        </span>
        <button
          type="button"
          class="link"
          disabled={Boolean(said.value) || page.value >= (last ?? Infinity)}
          onClick={() => page.value++}
        >
          next page
        </button>
      </p>
      {said.value && <p class="faint">{said.value}</p>}
      {picture.value && !said.value && (
        <img src={picture.value} alt={`page ${page.value} of the document, the cited place marked`} />
      )}
    </div>
  );
}
