import { expect, test } from "vitest";
import { words } from "../src/lib/diff";
import { chance, many, percent, signed } from "../src/lib/format";
import { clean, direction, Points, sentence, short } from "../src/lib/text";

test("a text is cut at code points", () => {
  const points = new Points("a𝄞b€𝄞");
  expect(points.length).toBe(5);
  expect([points.slice(0, 2), points.slice(1, 2), points.slice(2), points.slice(4, 99), points.slice(-3, 1)]).toEqual([
    "a𝄞",
    "𝄞",
    "b€𝄞",
    "𝄞",
    "a",
  ]);
  expect(new Points("plain").slice(1, 3)).toBe("la");
});

test("controls and overrides of direction are not shown; lines and tabs are", () => {
  expect(clean("a\u202etxt.exe\u2066\u0007\u001b[31m\tb\r\nc\rd")).toBe("atxt.exe[31m\tb\nc\nd");
  expect(clean(null)).toBe("");
});

test("a name is one line and not too long", () => {
  expect(short(`a\n${"b".repeat(9999)}`, 10)).toBe("a bbbbbbb…");
  expect(sentence("no passage fits")).toBe("No passage fits.");
  expect(sentence("Why?")).toBe("Why?");
});

test("a text runs as its first letter does", () => {
  expect([direction("1. שלום a"), direction("a שלום"), direction("12"), direction("(مرحبا)")]).toEqual([
    "rtl",
    "ltr",
    "ltr",
    "rtl",
  ]);
});

test("figures", () => {
  expect([signed(-0.04), signed(-2), signed(3.14)]).toEqual(["0.0", "−2.0", "3.1"]);
  expect([percent(0), percent(0.001), percent(0.994)]).toEqual(["0 %", "<1 %", "99 %"]);
  expect([chance(0.5), chance(0.999), chance(0.00012)]).toEqual(["0.50", "0.999", "0.000120"]);
  expect([many(999), many(1234567)]).toEqual(["999", "1\u2009234\u2009567"]);
});

test("words that differ are those out of the longest common order", () => {
  expect(words("a b c", "a b c")).toEqual({ changed: 0, of: 3 });
  expect(words("a b c d", "a x c")).toEqual({ changed: 2, of: 4 });
  expect(words("", "a")).toEqual({ changed: 1, of: 1 });
});
