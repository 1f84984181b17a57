/** Figures as the page writes them: the same words as in the terminal. */

const MINUS = "\u2212";

/** One decimal and a true minus. */
export function signed(value: number): string {
  const text = value.toFixed(1).replace("-", MINUS);
  return text === `${MINUS}0.0` ? "0.0" : text;
}

/** A share in per cent. */
export const percent = (share: number): string =>
  share > 0 && share < 0.005 ? "<1 %" : `${Math.round(100 * share)} %`;

/** A probability: two places, more where that would say 0 or 1. */
export const chance = (p: number): string => (p >= 0.995 || p < 0.01 ? p.toPrecision(3) : p.toFixed(2));

/** A count with thin spaces between its thousands. */
export const many = (count: number): string =>
  Math.round(count)
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, "\u2009");

/** "1 document", "3 documents". */
export const counted = (count: number, noun: string): string => `${many(count)} ${noun}${count === 1 ? "" : "s"}`;

/** Milliseconds, as a person says them. */
export const lasting = (ms: number): string => (ms < 950 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

/** A day and an hour, short. */
export function when(iso: string | undefined): string {
  const date = new Date(iso ?? "");
  if (Number.isNaN(date.getTime())) return "";
  const day = date.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
  return `${day}, ${date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}`;
}
