import { expect, test } from "vitest";
import { events, lines } from "../src/lib/stream";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
async function* cut(text: string, size: number): AsyncGenerator<Uint8Array> {
  const all = bytes(text);
  for (let at = 0; at < all.length; at += size) yield all.slice(at, at + size);
}
async function all<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const each of stream) found.push(each);
  return found;
}

const STREAM =
  ': queued 3\n\ndata: {"a": "ø€𝄞"}\n\nevent: x\ndata: one\ndata:  two\n\n\n: passages read 2/6\n\ndata: [DONE]\n\n';
const SENT = [
  { comment: "queued 3" },
  { data: '{"a": "ø€𝄞"}' },
  { data: "one\n two" },
  { comment: "passages read 2/6" },
  { data: "[DONE]" },
];

test("events are the same however the bytes are cut, in a character too, and whatever ends the lines", async () => {
  for (const ending of ["\n", "\r\n", "\r"])
    for (let size = 1; size < 40; size++)
      expect(await all(events(cut(STREAM.replaceAll("\n", ending), size)))).toEqual(SENT);
});

test("what a stream that broke off had begun is still told", async () => {
  expect(await all(events(cut("data: one\n\ndata: two", 5)))).toEqual([{ data: "one" }, { data: "two" }]);
});

test("lines of JSON, the last one without its end", async () => {
  expect(await all(lines(cut('{"a":1}\n{"b":2}\n\n{"c":"…"}', 3)))).toEqual(['{"a":1}', '{"b":2}', "", '{"c":"…"}']);
});
