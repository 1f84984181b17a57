/** The whole page: its head, and the part that is open. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { useKey } from "../lib/client";
import * as books from "../state/books";
import { theme } from "../state/looks";
import { part, PARTS } from "../state/place";
import { Drop } from "./adding";
import { Ask } from "./ask";
import { Check } from "./check";
import { Documents } from "./documents";
import { Faq } from "./faq";
import { History } from "./history";
import { GraphMap } from "./map";
import { Overview } from "./overview";
import { Shortcuts } from "./shortcuts";

const ROOMS = {
  ask: Ask,
  documents: Documents,
  map: GraphMap,
  faq: Faq,
  check: Check,
  overview: Overview,
  history: History,
};

export function Page() {
  const Room = ROOMS[part.value];
  useEffect(() => {
    document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }); // on a phone the row is longer than the page
    document.title = `${PARTS.find(([name]) => name === part.value)![1]} · openbook`;
  }, [part.value]);
  return (
    <>
      <a
        class="skip"
        href="#main"
        onClick={(event) => (event.preventDefault(), document.getElementById("main")?.focus())}
      >
        To the content
      </a>
      <Head />
      <main id="main" tabIndex={-1}>
        {books.trouble.value ? <Trouble /> : <Room />}
      </main>
      <footer class="foot">
        <Shortcuts /> <span>Everything stays on the machine that serves this page.</span>
      </footer>
      <Drop />
    </>
  );
}

function Head() {
  return (
    <header class="head">
      <a class="mark" href="#/ask">
        openbook
      </a>
      <nav aria-label="parts of the page">
        {PARTS.map(([name, label]) => (
          <a key={name} href={`#/${name}`} aria-current={part.value === name ? "page" : undefined}>
            {label}
          </a>
        ))}
      </nav>
      <div class="side">
        {books.books.value.length > 0 && (
          <select
            class="which"
            aria-label="Book"
            value={books.name.value}
            onChange={(event) => void books.choose(event.currentTarget.value)}
          >
            {books.books.value.map((book) => (
              <option key={book.name} value={book.name}>
                {book.name}
              </option>
            ))}
          </select>
        )}
        <select
          class="which"
          aria-label="Light or dark"
          value={theme.value}
          onChange={(event) => (theme.value = event.currentTarget.value as typeof theme.value)}
        >
          <option value="auto">auto</option>
          <option value="light">light</option>
          <option value="dark">dark</option>
        </select>
      </div>
    </header>
  );
}

function Trouble() {
  const typed = useSignal("");
  const { text, key } = books.trouble.value!;
  return (
    <section class="lead" role="alert">
      <p>{text}</p>
      {key ? (
        <form class="box" onSubmit={(event) => (event.preventDefault(), useKey(typed.value), void books.refresh())}>
          <label class="hidden" for="key">
            Key
          </label>
          <input
            id="key"
            type="password"
            autocomplete="off"
            placeholder="The server’s key"
            onInput={(event) => (typed.value = event.currentTarget.value)}
          />
          <button type="submit" class="act">
            Use it
          </button>
        </form>
      ) : (
        <button type="button" class="link" onClick={() => void books.refresh()}>
          Try again
        </button>
      )}
    </section>
  );
}
