/** What the reader chose for this browser: light or dark, and whether single keys are shortcuts. */

import { effect, signal } from "@preact/signals";

function kept<T extends string>(key: string, start: T): ReturnType<typeof signal<T>> {
  const value = signal<T>((localStorage.getItem(key) as T | null) ?? start);
  effect(() => localStorage.setItem(key, value.value));
  return value;
}

export const theme = kept<"auto" | "light" | "dark">("openbook.theme", "auto");
export const keys = kept<"on" | "off">("openbook.keys", "on");

effect(() => {
  document.documentElement.dataset.theme = theme.value;
});

export const calm = (): boolean => matchMedia("(prefers-reduced-motion: reduce)").matches;
