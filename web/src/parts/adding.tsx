/** Adding documents: the place to drop them, anywhere on the page too, and how far it is. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { many } from "../lib/format";
import { clean, short } from "../lib/text";
import { add, adding, cancel, dropped, errors } from "../state/adding";
import * as books from "../state/books";
import { go } from "../state/place";

export function Chooser() {
  const files = useRef<HTMLInputElement>(null);
  const folder = useRef<HTMLInputElement>(null);
  const take = (input: HTMLInputElement): void => {
    void add([...(input.files ?? [])]);
    input.value = "";
  };
  useEffect(() => folder.current?.setAttribute("webkitdirectory", ""), []);
  return (
    <p class="chooser">
      Drop documents or folders anywhere on this page, or{" "}
      <button type="button" class="link" onClick={() => files.current?.click()}>
        choose files
      </button>{" "}
      or{" "}
      <button type="button" class="link" onClick={() => folder.current?.click()}>
        a folder
      </button>
      <span class="faint kinds">PDF, Word, HTML, Markdown, text, code, CSV of questions and answers</span>
      <input
        ref={files}
        type="file"
        multiple
        hidden
        aria-label="files to add"
        onChange={(event) => take(event.currentTarget)}
      />
      <input
        ref={folder}
        type="file"
        multiple
        hidden
        aria-label="a folder to add"
        onChange={(event) => take(event.currentTarget)}
      />
    </p>
  );
}

export function Adding() {
  const now = adding.value;
  return (
    <div class="adding" role="status">
      {now && "finished" in now && <p>{now.finished}</p>}
      {now && "what" in now && (
        <>
          <p>
            {clean(now.what)}
            {now.total > 0 && ` ${many(now.done)} of ${many(now.total)}`}{" "}
            <bdi class="faint">{short(now.document, 70)}</bdi>{" "}
            <button type="button" class="link" onClick={cancel}>
              stop
            </button>
          </p>
          <progress aria-label="how far" {...(now.total > 0 ? { value: now.done, max: now.total } : {})} />
        </>
      )}
      {errors.value.length > 0 && (
        <>
          <p>{errors.value.length === 1 ? "This was not added:" : `${errors.value.length} were not added:`}</p>
          <ul>
            {errors.value.slice(0, 50).map((error, i) => (
              <li key={i}>
                {error.name && (
                  <b>
                    <bdi>{short(error.name, 90)}</bdi>
                  </b>
                )}{" "}
                {short(error.message.replace(`${error.name}: `, ""), 400)}
              </li>
            ))}
          </ul>
        </>
      )}
    </div>
  );
}

/** While files are dragged over the page it says that they can be let go. */
export function Drop() {
  const over = useSignal(false);
  useEffect(() => {
    const files = (event: DragEvent): boolean => Boolean(event.dataTransfer?.types.includes("Files"));
    const drag = (event: DragEvent): void => {
      if (!files(event)) return;
      event.preventDefault();
      over.value = true;
    };
    const leave = (event: DragEvent): void => {
      if (!event.relatedTarget) over.value = false;
    };
    const drop = (event: DragEvent): void => {
      if (!files(event)) return;
      event.preventDefault();
      over.value = false;
      go("documents");
      void dropped(event.dataTransfer!.items).then(add);
    };
    addEventListener("dragover", drag);
    addEventListener("dragleave", leave);
    addEventListener("drop", drop);
    return () => {
      removeEventListener("dragover", drag);
      removeEventListener("dragleave", leave);
      removeEventListener("drop", drop);
    };
  }, []);
  if (!over.value || !books.name.value) return null;
  return (
    <div class="drop" aria-hidden="true">
      <p>
        Let go to add to <b>{short(books.name.value, 60)}</b>
      </p>
    </div>
  );
}
