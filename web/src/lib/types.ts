/** What the server says, as INTERFACES and docs/server.md define it. Offsets count code points, end exclusive. */

export type Span = [number, number];

export interface Member {
  document: string;
  title?: string;
  page?: number | null;
  line?: number | null;
  span: Span;
  text: string;
  left_out?: number | null;
}

export interface Source {
  id: string;
  kind: string;
  prior?: number | null;
  refined?: number | null;
  responsibility?: number | null;
  bits?: number | null;
  necessity?: number | null;
  sufficiency?: number | null;
  document?: string | null;
  title?: string | null;
  heading?: string | null;
  page?: number | null;
  line?: number | null;
  span?: Span | null;
  text?: string | null;
  members?: Member[];
}

/** A place of the datastore where the model was in a like state; `text` is the word that stands there. */
export interface Neighbour {
  document: string;
  line: number | null;
  before: string;
  text: string;
  after: string;
  p: number;
}

export interface Token {
  text: string;
  span: Span;
  p: number;
  bits: number | null;
  responsibility: Record<string, number>;
  certified: number | null;
  neighbours?: Neighbour[];
}

export interface Citation {
  span: Span;
  source: string;
  source_span: Span;
  cited_text: string;
  responsibility?: number;
  member?: number | null;
}

export interface Sentence {
  span: Span;
  verdict: string;
  source: string | null;
  bits: number;
  unsupported: Span[];
}

export interface Point {
  text: string;
  bits: number;
  share: number;
  evidence: { source: string; document: string; page?: number | null; line?: number | null; cited_text: string }[];
}

export interface Related {
  question: string;
  document: string;
  line: number | null;
}

/** An answer, a checked text, a summary or a stored answer: they share a shape. */
export interface Answer {
  id?: number | null;
  question: string | null;
  answer: string;
  abstained?: boolean;
  reason?: string | null;
  ended?: string | null;
  model?: string;
  seed?: number;
  book: { path?: string; name?: string; version: number };
  settings?: Record<string, unknown>;
  sources: Source[];
  tokens?: Token[];
  citations: Citation[];
  sentences?: Sentence[];
  points?: Point[];
  related?: Related[];
  confidence?: number;
  read?: Record<string, number>;
  timings?: Record<string, number>;
}

export interface Book {
  name: string;
  version: number;
  passages: number;
  documents: number;
  tags?: unknown;
  updated?: string;
}

export interface Doc {
  name: string;
  title?: string;
  passages: number;
  kind?: string;
  pages?: number | null;
}

export interface DocText {
  name: string;
  title?: string;
  text: string;
  pages: number[] | null;
  kind?: string;
}

export interface Version {
  number: number;
  created?: string;
  made?: string;
  documents: number;
  passages: number;
  tags: string[];
  live?: boolean;
}

export interface Kept {
  id: number;
  question: string;
  answer: string;
  book: string;
  when: string;
  abstained: boolean;
}
