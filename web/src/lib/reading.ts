/** An answer as it is shown: numbered sources, and the text cut into inked pieces. The law is the terminal's too. */

import { clean, Points } from "./text";
import type { Citation, Sentence, Source, Span, Token } from "./types";

/** Bits from which the ink takes its next step: each is twice the one before (openbook/answer/palette.py). */
export const LEVELS = [0.5, 1, 2, 4, 8];
export const HUES = 8;
export const PATTERNS = 4;

/** A stretch of the answer: one token, or the tokens that make one character together, or text no token covers. */
export interface Piece {
  lead: string; // white space before the word, which is not underlined
  word: string;
  tokens: number[];
  bits: number | null;
  level: number; // of the whole word, of which this may be a part
  source: number; // index of the source that carried it most; −1: none of the book's
  citations: { index: number; source: number }[]; // those that end here, one a source
  doubted: boolean;
}

export const level = (bits: number | null): number =>
  bits === null ? 0 : LEVELS.filter((least) => bits >= least).length;

export const isOwn = (source: Source): boolean => source.kind === "closed_book";

/** What the reader sees in place of each source's id: 1, 2, 3; null for the model's own memory. */
export function numbers(sources: Source[]): (number | null)[] {
  let count = 0;
  return sources.map((source) => (isOwn(source) ? null : ++count));
}

/** Class names of the source of that number: its hue, and its kind of line, which is the second sign. */
export function hue(number: number | null | undefined): string {
  if (!number) return "own";
  const index = number - 1;
  return `s${(index % HUES) + 1} u${((index + Math.floor(index / PATTERNS)) % PATTERNS) + 1}`;
}

/** Which of the book's sources carried a token most. */
export function owner(token: Token, sources: Source[]): number {
  let best = -1;
  let most = 0;
  sources.forEach((source, i) => {
    const share = token.responsibility?.[source.id] ?? 0;
    if (!isOwn(source) && share > most) [best, most] = [i, share];
  });
  return best;
}

/** The text cut into pieces, none of it lost, each citation after the piece in which it ends. */
export function pieces(
  text: string,
  tokens: Token[],
  sources: Source[],
  citations: Citation[] = [],
  sentences: Sentence[] = [],
): Piece[] {
  const points = new Points(text);
  const made: Piece[] = [];
  const doubts = sentences.flatMap((sentence) => sentence.unsupported);
  const left = citations
    .map((c, i) => ({ end: c.span[1], i, source: c.source }))
    .sort((a, b) => a.end - b.end || a.i - b.i);
  const ending = (end: number): Piece["citations"] => {
    const found = new Map<number, number>();
    while (left[0] && left[0].end <= end) {
      const { source, i } = left.shift()!;
      const at = sources.findIndex((each) => each.id === source);
      if (at >= 0 && !found.has(at)) found.set(at, i);
    }
    return [...found].map(([source, index]) => ({ index, source }));
  };
  const add = (span: Span, group: number[]): void => {
    const written = points.slice(...span);
    const word = written.trimStart();
    const start = span[0] + [...written.slice(0, written.length - word.length)].length;
    const bits = group.map((i) => tokens[i]?.bits ?? null).filter((b): b is number => b !== null);
    const strongest = group.reduce((a, b) => ((tokens[b]?.bits ?? 0) > (tokens[a]?.bits ?? 0) ? b : a), group[0] ?? -1);
    const token = tokens[strongest];
    const source = token ? owner(token, sources) : -1;
    made.push({
      lead: clean(written.slice(0, written.length - word.length)),
      word: clean(word),
      tokens: group,
      bits: bits.length ? bits.reduce((a, b) => a + b, 0) : null,
      level: 0,
      source,
      citations: ending(span[1]),
      doubted: group.length > 0 && doubts.some(([from, to]) => start < to && from < span[1]),
    });
  };
  let at = 0;
  let waiting: number[] = [];
  tokens.forEach((token, i) => {
    const [start, end] = place(points, token, at);
    waiting.push(i);
    if (end === start && i + 1 < tokens.length) return; // a part of a character: it belongs to the token that completes it
    if (at < start) add([at, start], []);
    add([start, end], waiting);
    waiting = [];
    at = end;
  });
  if (at < points.length) add([at, points.length], []);
  let before = 0; // the ink of the word before
  for (const word of words(made)) {
    ink(word);
    const sign = word[0]!.tokens.length > 0 && !SPELT.test(word[0]!.word);
    if (sign && !before) word[0]!.level = 0; // a dot alone would be no word to look at; the strip has it
    before = word[0]!.level;
  }
  return made;
}

const SPELT = /[^\p{P}\s]/u; // more than signs
const UNSPACED =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/u;

/** Pieces that make a word together. A sign is a word of its own, and so is a piece of a script without spaces. */
function words(made: Piece[]): Piece[][] {
  const found: Piece[][] = [];
  let open = false; // whether the next piece may go on with the last word
  for (const piece of made) {
    const spelt = piece.tokens.length > 0 && SPELT.test(piece.word) && !UNSPACED.test(piece.word);
    if (open && spelt && !piece.lead) found.at(-1)!.push(piece);
    else found.push([piece]);
    open = spelt && !/\s$/.test(piece.word);
  }
  return found;
}

/** One ink for a word: log-probabilities add up, so what the book added to it is the sum of its parts' bits. */
function ink(word: Piece[]): void {
  const known = word.filter((piece) => piece.bits !== null);
  const strongest = known.reduce((a, b) => (b.bits! > a.bits! ? b : a), known[0] ?? word[0]!);
  if (strongest.source < 0 || !known.length) return;
  const step = level(known.reduce((sum, piece) => sum + piece.bits!, 0));
  for (const piece of word) [piece.level, piece.source] = [step, strongest.source];
}

/** Where the token stands: its span, or, where that is unusable, its text if the answer goes on with it. */
function place(points: Points, token: Token, at: number): Span {
  const [start, end] = token.span ?? [-1, -1];
  if (start >= at && end >= start && end <= points.length) return [start, end];
  const to = at + [...(token.text ?? "")].length;
  return points.slice(at, to) === token.text ? [at, to] : [at, at];
}

export interface Mark {
  text: string;
  citations: number[];
}

/** A passage that begins at `from` in its document, cut wherever a cited place begins or ends. */
export function marks(text: string, from: number, places: { span: Span; citation: number }[]): Mark[] {
  const points = new Points(text);
  const within = places
    .map(({ span, citation }) => ({
      span: span.map((at) => Math.min(Math.max(at - from, 0), points.length)) as Span,
      citation,
    }))
    .filter(({ span }) => span[0] < span[1]);
  const cuts = [...new Set([0, points.length, ...within.flatMap(({ span }) => span)])].sort((a, b) => a - b);
  return cuts.slice(1).map((end, i) => {
    const start = cuts[i]!;
    const inside = within.filter(({ span }) => span[0] <= start && end <= span[1]);
    return { text: clean(points.slice(start, end)), citations: inside.map(({ citation }) => citation) };
  });
}

/** Each source's mean responsibility over some tokens: while an answer is written, its share so far. */
export function shares(tokens: Token[], sources: Source[]): number[] {
  return sources.map((source) => {
    if (!tokens.length) return 0;
    return tokens.reduce((sum, token) => sum + (token.responsibility?.[source.id] ?? 0), 0) / tokens.length;
  });
}

/** The bits that the book added to all of the tokens. */
export const total = (tokens: Token[]): number => tokens.reduce((sum, token) => sum + (token.bits ?? 0), 0);

const KINDS: Record<string, string> = {
  closed_book: "The model’s own memory",
  neighbours: "Neighbours in the datastore",
  faq: "A stored question and answer",
  report: "A community report",
  model: "A model",
  image: "An image",
};

/** A source's name: its document, or the documents read together, or what kind it is. */
export function nameOf(source: Source): string {
  const together = [...new Set((source.members ?? []).map((member) => member.document))].join(" + ");
  return clean(together || source.document || source.title || KINDS[source.kind] || source.id);
}

/** Where in its document: the page, else the line. */
export function placeOf(source: { page?: number | null; line?: number | null }): string {
  return source.page != null ? `page ${source.page}` : source.line != null ? `line ${source.line}` : "";
}
