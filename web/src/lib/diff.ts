/** How two texts differ, in words. */

const MOST = 2_000; // words of each that are compared: the table has their product of cells

/** Words of the longer text, and how many of them are not in the other's order (by the longest common subsequence). */
export function words(one: string, other: string): { changed: number; of: number } {
  const [a, b] = [one, other].map((text) => text.split(/\s+/).filter(Boolean).slice(0, MOST)) as [string[], string[]];
  let row = new Uint16Array(b.length + 1);
  for (const word of a) {
    const next = new Uint16Array(b.length + 1);
    b.forEach((found, j) => {
      next[j + 1] = word === found ? row[j]! + 1 : Math.max(row[j + 1]!, next[j]!);
    });
    row = next;
  }
  const of = Math.max(a.length, b.length);
  return { changed: of - row[b.length]!, of };
}
