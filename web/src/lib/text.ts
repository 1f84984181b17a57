/** Text from documents: cut by Python's offsets, and without what a display could be fooled by. */

const UNSHOWN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/gu;

/** The text without control characters and without overrides of its direction. Line breaks and tabs stay. */
export const clean = (text: string | null | undefined): string =>
  (text ?? "").replace(/\r\n?/g, "\n").replace(UNSHOWN, "");

/** The text on one line, at most so long: for names, which may be thousands of characters. */
export function short(text: string | null | undefined, most = 160): string {
  const line = clean(text).replace(/\s+/g, " ").trim();
  return line.length <= most ? line : `${line.slice(0, most - 1)}…`;
}

const RIGHT_TO_LEFT = /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u;

/** The direction of a text, by its first letter, as `dir="auto"` takes it. */
export const direction = (text: string): "rtl" | "ltr" =>
  RIGHT_TO_LEFT.test(/\p{L}/u.exec(text)?.[0] ?? "") ? "rtl" : "ltr";

/** What a program said, as a sentence. */
export function sentence(text: string | null | undefined): string {
  const said = clean(text).trim();
  return said && `${said[0]!.toLocaleUpperCase("en")}${said.slice(1)}${/[.!?…]$/.test(said) ? "" : "."}`;
}

/** A text that is cut where Python says: its offsets count code points, JavaScript's count UTF-16 units. */
export class Points {
  readonly text: string;
  readonly length: number;
  readonly #units: Uint32Array | null;

  constructor(text: string) {
    this.text = text;
    if (!/[\ud800-\udbff]/.test(text)) {
      this.#units = null;
      this.length = text.length;
      return;
    }
    const units = new Uint32Array(text.length + 1);
    let count = 0;
    for (let at = 0; at < text.length; at += (text.codePointAt(at) ?? 0) > 0xffff ? 2 : 1) units[count++] = at;
    units[count] = text.length;
    this.#units = units;
    this.length = count;
  }

  /** The code points from `start` up to `end`. */
  slice(start: number, end = this.length): string {
    return this.text.slice(this.unit(start), this.unit(end));
  }

  /** The UTF-16 offset of a code point. */
  unit(point: number): number {
    const at = Math.max(0, Math.min(this.length, point));
    return this.#units ? (this.#units[at] ?? this.text.length) : at;
  }
}

/** Code points of a text. */
export const count = (text: string): number => new Points(text).length;
