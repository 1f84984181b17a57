/** Documents on their way into the book: dropped or chosen, sent, read by the server; and the files it could not read. */

import { signal } from "@preact/signals";
import { aborted, call, message, objects } from "../lib/client";
import { counted } from "../lib/format";
import { clean, short } from "../lib/text";
import * as books from "./books";

export interface Progress {
  what: string;
  done: number;
  total: number;
  document: string;
}

interface Skipped {
  name?: string;
  document?: string;
  reason?: string;
  message?: string;
}

interface Event extends Progress {
  event: "progress" | "done" | "error";
  message?: string;
  added?: { documents?: number; passages?: number; skipped?: Skipped[]; unchanged?: number };
}

/** null: nothing is being added, and nothing was. */
export const adding = signal<Progress | { finished: string } | null>(null);
export const errors = signal<{ name: string; message: string }[]>([]);
let control: AbortController | null = null;

/** Files of what was dropped: folders are looked through. */
export async function dropped(items: DataTransferItemList): Promise<File[]> {
  // All are taken at once: the list is empty when the event is over.
  const taken = [...items]
    .filter((item) => item.kind === "file")
    .map((item) => [item.webkitGetAsEntry(), item.getAsFile()] as const);
  return (await Promise.all(taken.map(([entry, file]) => (entry ? within(entry, "") : file ? [file] : [])))).flat();
}

async function within(entry: FileSystemEntry, folder: string): Promise<File[]> {
  if (entry.isFile) {
    const file = await new Promise<File>((done, fail) => (entry as FileSystemFileEntry).file(done, fail));
    return [folder ? new File([file], folder + file.name, { type: file.type }) : file];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const found: FileSystemEntry[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((done, fail) => reader.readEntries(done, fail));
    if (!some.length) break; // a folder is read in batches
    found.push(...some);
  }
  const visible = found.filter((each) => !each.name.startsWith("."));
  return (await Promise.all(visible.map((each) => within(each, `${folder}${entry.name}/`)))).flat();
}

let last = Promise.resolve();
let waiting = 0;

/** Sends the files to the book that is open, after those that are on their way, and follows what becomes of them. */
export function add(files: File[]): Promise<void> {
  if (!files.length) return last;
  if (!waiting++) errors.value = [];
  const path = books.ready.then(() => books.path("/documents"));
  return (last = last.then(() => send(files, path)).finally(() => waiting--));
}

async function send(files: File[], path: Promise<string>): Promise<void> {
  control = new AbortController();
  const form = new FormData();
  for (const file of files) form.append("files", file, file.webkitRelativePath || file.name);
  adding.value = { what: `sending ${counted(files.length, "file")}`, done: 0, total: 0, document: "" };
  try {
    const response = await call(await path, { method: "POST", body: form, signal: control.signal });
    let added: Event["added"];
    for await (const event of objects<Event>(response)) {
      if (event.event === "progress") adding.value = event;
      else if (event.event === "error")
        errors.value = [...errors.value, { name: clean(event.document), message: clean(event.message) }];
      else if (event.event === "done") added = event.added ?? {};
    }
    const skipped = (added?.skipped ?? []).map((each) => ({
      name: clean(each.name ?? each.document),
      message: clean(each.reason ?? each.message),
    }));
    errors.value = [...errors.value, ...skipped];
    adding.value = added ? { finished: summary(added) } : null;
  } catch (error) {
    adding.value = null;
    if (!aborted(error))
      errors.value = [
        ...errors.value,
        { name: files.length === 1 ? short(files[0]!.name) : "", message: message(error) },
      ];
  }
  await books.refresh();
}

export function cancel(): void {
  control?.abort();
}

function summary({ documents = 0, passages = 0 }: NonNullable<Event["added"]>): string {
  return documents
    ? `Added ${counted(documents, "document")}: ${counted(passages, "passage")}.`
    : "Nothing new: the book held all of it already.";
}
