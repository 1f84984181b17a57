/** The book's versions: which one answers, tags, going back. */

import { useSignal } from "@preact/signals";
import { message, post } from "../lib/client";
import { counted, when } from "../lib/format";
import { short } from "../lib/text";
import type { Version } from "../lib/types";
import * as books from "../state/books";

const MOST = 30; // versions that are listed

const MADE: Record<string, string> = {
  add: "documents added",
  forget: "a document forgotten",
  use: "gone back",
  "faq add": "questions added",
  "": "made",
};

export function Versions() {
  const fault = useSignal("");
  const live = books.book.value?.version;
  const act = async (what: () => Promise<unknown>): Promise<void> => {
    fault.value = "";
    try {
      await what();
      await books.refresh();
    } catch (error) {
      fault.value = message(error);
    }
  };
  return (
    <aside class="rail" aria-label="versions">
      <h2>Versions</h2>
      <ol>
        {books.versions.value.slice(0, MOST).map((version) => (
          <Row key={version.number} version={version} live={version.live ?? version.number === live} act={act} />
        ))}
      </ol>
      {fault.value && (
        <p class="state fault" role="alert">
          {fault.value}
        </p>
      )}
      <p class="caveat">
        Each change makes a version. An answer names the one it was given from, and the same version gives the same
        answer.
      </p>
    </aside>
  );
}

function Row({
  version,
  live,
  act,
}: {
  version: Version;
  live: boolean;
  act: (what: () => Promise<unknown>) => Promise<void>;
}) {
  const tagging = useSignal<string | null>(null);
  return (
    <li class="version">
      <span class="number">{version.number}</span>
      <span>
        <b>
          {version.tags.length
            ? version.tags.map((tag) => short(tag, 40)).join(", ")
            : (MADE[version.made ?? ""] ?? short(version.made, 60))}
        </b>
        <span class="faint">
          {counted(version.documents, "document")}
          {version.created ? ` · ${when(version.created)}` : ""}
        </span>
        {tagging.value === null ? (
          <span class="acts">
            {live ? (
              <span class="faint">answers now</span>
            ) : (
              <button
                type="button"
                class="link"
                aria-label={`use version ${version.number}`}
                onClick={() => void act(() => post(books.path("/use"), { version: version.number }))}
              >
                use
              </button>
            )}
            <button
              type="button"
              class="link"
              aria-label={`name version ${version.number}`}
              onClick={() => (tagging.value = "")}
            >
              name
            </button>
          </span>
        ) : (
          <form
            onSubmit={(event) => {
              event.preventDefault();
              const name = tagging.value?.trim();
              tagging.value = null;
              if (name) void act(() => post(books.path("/tags"), { name, version: version.number }));
            }}
          >
            <input
              type="text"
              aria-label={`a name for version ${version.number}`}
              placeholder="a name, then Enter"
              maxLength={60}
              ref={(input) => input?.focus()}
              onInput={(event) => (tagging.value = event.currentTarget.value)}
              onKeyDown={(event) => {
                if (event.key !== "Escape") return;
                event.preventDefault();
                tagging.value = null;
              }}
            />
          </form>
        )}
      </span>
    </li>
  );
}
