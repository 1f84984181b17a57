/** The sources' colours for eyes that lack a kind of cone: Machado, Oliveira and Fernandes 2009, severity 1, linear RGB. */

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { HUES, hue } from "../src/lib/reading";

type Triple = [number, number, number];

const VISIONS: Record<string, [Triple, Triple, Triple]> = {
  all: [
    [1, 0, 0],
    [0, 1, 0],
    [0, 0, 1],
  ],
  protanopia: [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
  deuteranopia: [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
  ],
  tritanopia: [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.3039],
  ],
};
const TO_XYZ: [Triple, Triple, Triple] = [
  [0.4124564, 0.3575761, 0.1804375],
  [0.2126729, 0.7151522, 0.072175],
  [0.0193339, 0.119192, 0.9503041],
];
const WHITE: Triple = [0.95047, 1, 1.08883];

const times = (m: [Triple, Triple, Triple], v: Triple): Triple =>
  m.map((row) => row[0] * v[0] + row[1] * v[1] + row[2] * v[2]) as Triple;

function linear(colour: string): Triple {
  return [1, 3, 5].map((at) => {
    const c = parseInt(colour.slice(at, at + 2), 16) / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  }) as Triple;
}

/** CIE L*a*b* of a colour as that eye sees it. */
function lab(colour: string, vision: [Triple, Triple, Triple]): Triple {
  const seen = times(vision, linear(colour)).map((c) => Math.min(1, Math.max(0, c))) as Triple;
  const [x, y, z] = times(TO_XYZ, seen).map((c, i) => {
    const t = c / WHITE[i]!;
    return t > 0.008856 ? Math.cbrt(t) : 7.787 * t + 16 / 116;
  }) as Triple;
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

const css = readFileSync(new URL("../src/style/palette.css", import.meta.url), "utf8");
const THEMES = ["light", "dark"].map((_, theme) =>
  Array.from(
    { length: HUES },
    (_, i) => new RegExp(`--s${i + 1}: light-dark\\((#\\w{6}), (#\\w{6})\\)`).exec(css)![1 + theme]!,
  ),
);
const line = (number: number): string => hue(number).split(" ")[1]!;

/** ΔE of 1976 between two sources, at its least over the kinds of eyes and both themes. */
function apart(one: number, other: number): number {
  const distances = THEMES.flatMap((colours) =>
    Object.values(VISIONS).map((vision) =>
      Math.hypot(...lab(colours[one - 1]!, vision).map((c, k) => c - lab(colours[other - 1]!, vision)[k]!)),
    ),
  );
  return Math.min(...distances);
}

const PAIRS = Array.from({ length: HUES }, (_, i) =>
  Array.from({ length: i }, (_, j): [number, number] => [j + 1, i + 1]),
).flat();

test("the first four sources can be told apart by colour alone, by every kind of eye, light and dark", () => {
  const least = Math.min(...PAIRS.filter(([, other]) => other <= 4).map(([one, other]) => apart(one, other)));
  expect(least).toBeGreaterThan(9.9); // 2.3 is just noticeable
});

test("of any two of eight that come near in some eye, the lines differ in kind", () => {
  for (const [one, other] of PAIRS)
    if (line(one) === line(other)) expect(apart(one, other), `${one} and ${other}`).toBeGreaterThan(15);
});

test("every pair is far apart for most eyes", () => {
  const trichromat = PAIRS.map(([one, other]) =>
    Math.min(
      ...THEMES.map((c) =>
        Math.hypot(...lab(c[one - 1]!, VISIONS.all!).map((v, k) => v - lab(c[other - 1]!, VISIONS.all!)[k]!)),
      ),
    ),
  );
  expect(Math.min(...trichromat)).toBeGreaterThan(29);
});
