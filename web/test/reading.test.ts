import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { hue, level, marks, numbers, owner, pieces, shares } from "../src/lib/reading";
import type { Answer, Source, Token } from "../src/lib/types";

const read = (name: string): Answer =>
  JSON.parse(readFileSync(new URL(`../mock/recorded/${name}.json`, import.meta.url), "utf8")) as Answer;
const source = (id: string, kind = "passage"): Source => ({ id, kind });
const token = (
  text: string,
  at: number,
  bits: number | null = 1,
  responsibility: Record<string, number> = { p1: 1 },
): Token => ({
  text,
  span: [at, at + [...text].length],
  p: 0.5,
  bits,
  responsibility,
  certified: null,
});
const whole = (made: ReturnType<typeof pieces>): string => made.map(({ lead, word }) => lead + word).join("");

test("no character of a recorded answer is lost, and every token is in one piece", () => {
  for (const name of ["sample", "ask", "check"]) {
    const answer = read(name);
    const made = pieces(answer.answer, answer.tokens ?? [], answer.sources, answer.citations, answer.sentences);
    expect(whole(made)).toBe(answer.answer);
    expect(made.flatMap(({ tokens }) => tokens)).toEqual((answer.tokens ?? []).map((_, i) => i));
    expect(made.flatMap(({ citations }) => citations).length).toBeGreaterThan(0);
  }
});

test("offsets count code points, as Python's do", () => {
  const made = pieces("𝄞𝄞 ab", [token("𝄞", 0), token("𝄞", 1), token(" ab", 2)], [source("p1")]);
  expect(made.map(({ word }) => word)).toEqual(["𝄞", "𝄞", "ab"]);
});

test("tokens that make one character together are one piece with their bits together", () => {
  const tokens = [token("", 0, 1), { ...token("€", 0, 1.5) }, token(" x", 1, 0)];
  const [first] = pieces("€ x", tokens, [source("p1")]);
  expect(first).toMatchObject({ word: "€", tokens: [0, 1], level: level(2.5) });
});

test("a token without a usable place is found by its text, and text that no token covers is shown", () => {
  const lost = { ...token("one", 0), span: [90, 93] as [number, number] };
  const made = pieces("one and two", [lost, token(" two", 7)], [source("p1")]);
  expect(made.map(({ tokens }) => tokens)).toEqual([[0], [], [1]]);
  expect(whole(made)).toBe("one and two");
});

test("the model's own memory inks nothing and has no number", () => {
  const sources = [source("closed", "closed_book"), source("p1"), source("p2")];
  expect(numbers(sources)).toEqual([null, 1, 2]);
  expect(owner(token("x", 0, 9, { closed: 0.9, p2: 0.1 }), sources)).toBe(2);
  expect(pieces("x", [token("x", 0, 9, { closed: 1 })], sources)[0]).toMatchObject({ source: -1, level: 0 });
});

test("ink takes a step where the bits double", () => {
  expect([-3, 0.4, 0.5, 1, 2, 4, 8, 90].map(level)).toEqual([0, 0, 1, 2, 3, 4, 5, 5]);
  expect(level(null)).toBe(0);
});

test("no two of sixteen sources look the same, and a hue that comes again has another line", () => {
  const looks = Array.from({ length: 16 }, (_, i) => hue(i + 1));
  expect(new Set(looks).size).toBe(16);
  expect(hue(null)).toBe("own");
});

test("cited places that overlap are cut into marks, none of the passage lost", () => {
  const made = marks("abcdefgh", 100, [
    { span: [101, 104], citation: 0 },
    { span: [103, 106], citation: 1 },
    { span: [0, 50], citation: 2 },
  ]);
  expect(made.map(({ text, citations }) => [text, citations])).toEqual([
    ["a", []],
    ["bc", [0]],
    ["d", [0, 1]],
    ["ef", [1]],
    ["gh", []],
  ]);
});

test("shares while an answer is written are the mean over its tokens", () => {
  const tokens = [token("a", 0, 1, { p1: 1 }), token("b", 1, 1, { p1: 0.5, p2: 0.5 })];
  expect(shares(tokens, [source("p1"), source("p2"), source("p3")])).toEqual([0.75, 0.25, 0]);
});

test("a word has one ink: the bits of its parts together, in the colour of the strongest; signs and unspaced scripts stand alone", () => {
  const sources = [source("p1"), source("p2")];
  const tokens = [
    token(" Ing", 0, 3, { p1: 1 }),
    token("rid", 4, 1.5, { p2: 1 }),
    token(".", 7, 0.1),
    token(" so", 8, 0.1),
    token("中", 11, 2),
    token("文", 12, 0),
  ];
  const made = pieces(" Ingrid. so中文", tokens, sources);
  expect(made.map((piece) => piece.level)).toEqual([level(4.5), level(4.5), 0, 0, level(2), 0]);
  const dots = pieces("a. b.", [token("a", 0, 0), token(".", 1, 0.6), token(" b", 2, 1), token(".", 4, 0.6)], sources);
  expect(dots.map((piece) => piece.level)).toEqual([0, 0, level(1), level(0.6)]);
  expect(made.slice(0, 2).map((piece) => piece.source)).toEqual([0, 0]);
});
