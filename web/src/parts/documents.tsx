/** What the book holds: add by dropping, read, forget; and its versions. */

import { useComputed, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get, message } from "../lib/client";
import { counted, many } from "../lib/format";
import { short } from "../lib/text";
import type { Doc } from "../lib/types";
import { adding, errors } from "../state/adding";
import * as books from "../state/books";
import { Adding, Chooser } from "./adding";
import { DocumentReader } from "./document";
import { Forget } from "./forget";
import { Versions } from "./versions";

const AT_ONCE = 200; // rows of the list that are shown at first

export function Documents() {
  const held = useSignal<Doc[]>([]);
  const fault = useSignal("");
  const filter = useSignal("");
  const most = useSignal(AT_ONCE);
  const reading = useSignal<Doc | null>(null);
  const forgetting = useSignal<Doc | null>(null);
  const book = books.book.value;
  useEffect(() => {
    const control = new AbortController();
    if (book)
      get<{ data: Doc[] }>(books.path("/documents"), control.signal).then(
        (found) => ((held.value = found.data), (fault.value = "")),
        (error: unknown) => control.signal.aborted || (fault.value = message(error)),
      );
    return () => control.abort();
  }, [book?.name, book?.version]);
  const found = useComputed(() => {
    const wanted = filter.value.trim().toLocaleLowerCase();
    return wanted
      ? held.value.filter((doc) => `${doc.name} ${doc.title ?? ""}`.toLocaleLowerCase().includes(wanted))
      : held.value;
  });
  if (!book)
    return (
      <p class="lead">
        There is no book here yet. Make one: <code>openbook add notes/</code>, then start the server again.
      </p>
    );
  return (
    <div class="room">
      <section>
        <h1>
          <bdi>{short(book.name, 80)}</bdi>
        </h1>
        <p class="meta">
          {counted(book.documents, "document")}, {counted(book.passages, "passage")}, version {book.version}
        </p>
        <Chooser />
        {(adding.value || errors.value.length > 0) && <Adding />}
        {fault.value && (
          <p class="state fault" role="alert">
            {fault.value}
          </p>
        )}
        {held.value.length > 10 && (
          <input
            class="filter"
            type="search"
            aria-label="filter the documents by name"
            placeholder="Filter by name"
            onInput={(event) => (filter.value = event.currentTarget.value)}
          />
        )}
        <ul class="documents" aria-label="documents">
          {found.value.slice(0, most.value).map((doc) => (
            <Row
              key={doc.name}
              doc={doc}
              onRead={() => (reading.value = doc)}
              onForget={() => (forgetting.value = doc)}
            />
          ))}
        </ul>
        {filter.value && !found.value.length && <p class="faint">No document is called like this.</p>}
        {found.value.length > most.value && (
          <button type="button" class="link" onClick={() => (most.value += 5 * AT_ONCE)}>
            show more of {many(found.value.length)}
          </button>
        )}
      </section>
      <Versions />
      {reading.value && <DocumentReader doc={reading.value} onClose={() => (reading.value = null)} />}
      {forgetting.value && <Forget doc={forgetting.value} onClose={() => (forgetting.value = null)} />}
    </div>
  );
}

function Row({ doc, onRead, onForget }: { doc: Doc; onRead: () => void; onForget: () => void }) {
  const name = short(doc.name, 200);
  const slash = name.lastIndexOf("/", name.length - 2) + 1;
  return (
    <li>
      <button type="button" class="name" onClick={onRead}>
        <bdi>
          <span class="folder">{name.slice(0, slash)}</span>
          {name.slice(slash)}
        </bdi>
      </button>
      <span class="faint">
        {doc.pages ? `${counted(doc.pages, "page")}, ` : ""}
        {counted(doc.passages, "passage")}
      </span>
      <button type="button" class="link" aria-label={`forget ${name}`} onClick={onForget}>
        forget
      </button>
    </li>
  );
}
