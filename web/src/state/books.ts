/** The books of this server, the one that is open, and its models. */

import { computed, signal } from "@preact/signals";
import { get, message, Trouble } from "../lib/client";
import type { Book, Version } from "../lib/types";

export const books = signal<Book[]>([]);
export const name = signal("");
export const models = signal<string[]>([]);
export const versions = signal<Version[]>([]);
/** What went wrong with the server as a whole; "" while nothing did. `key`: it wants one. */
export const trouble = signal<{ text: string; key: boolean } | null>(null);
export const loaded = signal(false);

export const book = computed(() => books.value.find((each) => each.name === name.value) ?? null);
export const path = (rest = ""): string => `/v1/books/${encodeURIComponent(name.value)}${rest}`;

let told: () => void;
/** Kept once it is known what the server has. */
export const ready = new Promise<void>((done) => (told = done));

/** What the server has, read anew. */
export async function refresh(): Promise<void> {
  try {
    const [held, known] = await Promise.all([
      get<{ data: Book[] }>("/v1/books"),
      get<{ data: { id: string }[] }>("/v1/models"),
    ]);
    books.value = held.data;
    models.value = known.data.map((model) => model.id).filter((id) => !id.startsWith("openbook"));
    if (!held.data.some((each) => each.name === name.value)) name.value = held.data[0]?.name ?? "";
    trouble.value = null;
    if (name.value) await refreshVersions();
  } catch (error) {
    trouble.value = { text: message(error), key: error instanceof Trouble && error.status === 401 };
  }
  loaded.value = true;
  told();
}

export async function refreshVersions(): Promise<void> {
  const told = await get<{ data?: Version[]; versions?: Version[] }>(path("/versions"));
  versions.value = (told.data ?? told.versions ?? [])
    .filter((version) => version.number > 0)
    .toSorted((a, b) => b.number - a.number);
}

/** How often the reader chose another book: what was asked of the one before is then put away. */
export const turns = signal(0);

export async function choose(book: string): Promise<void> {
  name.value = book;
  turns.value++;
  await refresh();
}
