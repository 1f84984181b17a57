// The page is complete without this: the script adds the strip, the popover, the keys, and one passage at a time.
// Nothing of the answer is ever parsed as HTML: elements are created, texts are set, styles go through the CSSOM.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const answer = document.getElementById("answer");
  const strip = document.getElementById("strip");
  const popover = document.getElementById("popover");
  const UNPRINTED = /[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const row = (item) => item && typeof item === "object" && !Array.isArray(item);
  const list = (value) => (Array.isArray(value) ? value.filter(row) : []);
  const finite = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);
  const percent = (share) => (share > 0 && share < 0.005 ? "<1 %" : `${Math.round(100 * share)} %`);
  const signed = (value) => value.toFixed(1).replace("-", "\u2212").replace("\u22120.0", "0.0");

  function make(tag, className = "", text = "") {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = text;
    return element;
  }

  document.documentElement.classList.add("js");

  // --- Sources: hue, number and name stand in the rail; a token's responsibilities name them by id. ---------------
  const rows = [...document.querySelectorAll(".source")];
  const sources = list(data.sources).map((source, i) => ({
    id: String(source.id),
    hue: rows[i].dataset.hue,
    number: rows[i].dataset.number,
    name: rows[i].querySelector(".name bdi").lastChild.textContent, // the file, without its folder
  }));

  /** Who carried a token, in the rail's order: [{source, share}], with ids the rail does not know last, in grey. */
  function carriers(token) {
    const shares = new Map(Object.entries(token.responsibility ?? {}));
    const known = sources.map((source) => {
      const share = finite(shares.get(source.id)) ?? 0;
      shares.delete(source.id);
      return { source, share };
    });
    const unknown = [...shares].map(([id, share]) => ({
      source: { id, hue: "own", number: "", name: id },
      share: finite(share) ?? 0,
    }));
    return [...known, ...unknown];
  }

  // --- Passages: one at a time, scrolled to the cited place. ------------------------------------------------------
  const passages = [...document.querySelectorAll(".passage")];

  /** Shows a source's passage; with a citation, its mark (else the first), and brings it into view if asked. */
  function open(index, cite, move = true) {
    const passage = document.getElementById(`s${index}`);
    if (!passage) return;
    for (const other of passages) other.classList.toggle("open", other === passage);
    for (const link of document.querySelectorAll("a.row"))
      if (link.dataset.source === String(index)) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    const marks = [...passage.querySelectorAll("mark")];
    const cited = marks.filter((mark) => mark.dataset.cites.split(" ").includes(String(cite)));
    for (const mark of marks) mark.classList.toggle("on", cited.includes(mark));
    const mark = cited[0] ?? marks[0];
    const text = passage.querySelector(".text");
    if (mark) text.scrollTop = mark.offsetTop - text.clientHeight / 3;
    if (move) passage.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-source]");
    if (!link) return;
    event.preventDefault();
    open(link.dataset.source, link.dataset.cite);
  });

  const first = document.querySelector(".cite") ?? document.querySelector("a.row");
  if (first) open(first.dataset.source, first.dataset.cite, false);
  if (!answer) return;

  // --- Tokens: a word in the text and a column in the strip each; a character of several tokens shares its word. --
  const tokens = list(data.tokens);
  const words = new Array(tokens.length).fill(null);
  for (const word of answer.querySelectorAll(".t"))
    for (let n = 0; n < Number(word.dataset.n); n++) words[Number(word.dataset.i) + n] = word;
  const bits = tokens.map((token) => finite(token.bits));
  const tallest = Math.max(4, ...bits.map((value) => value ?? 0));
  const columns = tokens.map((token, i) => {
    const column = make("i");
    column.dataset.i = i;
    const fill = column.appendChild(make("b"));
    const added = Math.max(0, bits[i] ?? 0);
    fill.style.height = `${10 + (90 * added) / tallest}%`;
    fill.style.opacity = 0.35 + 0.65 * Math.min(1, added / 3);
    let from = 0;
    const stops = carriers(token).map(({ source, share }) => {
      const to = from + 100 * share;
      const stop = `${colour(source.hue)} ${from.toFixed(1)}% ${to.toFixed(1)}%`;
      from = to;
      return stop;
    });
    if (stops.length) fill.style.background = `linear-gradient(to top, ${stops.join(", ")})`;
    return column;
  });

  /** A hue's colour, light or dark, is the `--c` of its class; the palette's own name for it is `--s3`, `--own`. */
  function colour(hue) {
    return `var(--${hue.split(" ")[0]})`;
  }

  const rightToLeft = getComputedStyle(answer).direction === "rtl";
  if (columns.length) {
    strip.append(...columns);
    strip.hidden = false;
    strip.classList.toggle("many", columns.length > 100);
    strip.dir = rightToLeft ? "rtl" : "ltr";
    strip.setAttribute("role", "img");
    strip.setAttribute("aria-label", `what the book added to each of ${tokens.length} tokens, and which source carried it`);
    strip.style.maxWidth = `${2.75 * columns.length}rem`;
  }

  // --- The popover: what the token rests on. ----------------------------------------------------------------------
  function describe(i) {
    const token = tokens[i];
    const head = make("div", "head");
    const written = String(token.text || words[i]?.textContent || "").replace(UNPRINTED, "").trim();
    head.append(make("b", "", written || "\u2423"), make("span", "", `token ${i + 1} of ${tokens.length}`));
    const p = finite(token.p);
    const said = [];
    if (p !== null) said.push(`p ${p >= 0.995 || p < 0.01 ? p.toPrecision(3) : p.toFixed(2)}`);
    if (bits[i] !== null) said.push(`${bits[i] > 0 ? "+" : ""}${signed(bits[i])} bits from the book`);
    const carried = make("div", "carried");
    const shown = carriers(token).filter(({ share }) => share >= 0.005).sort((a, b) => b.share - a.share);
    for (const { source, share } of shown.slice(0, 6)) {
      const line = make("div", source.hue);
      const meter = make("span", "meter");
      meter.append(make("i"));
      meter.firstChild.style.width = `${Math.min(100, 100 * share)}%`;
      const name = make("span", "of");
      name.append(make("bdi", "", source.name));
      line.append(make("span", "number", source.number || "\u00b7"), meter, make("span", "value", percent(share)), name);
      carried.append(line);
    }
    popover.replaceChildren(head, make("p", "sum", said.join(" \u00b7 ")), carried);
    if (shown.length > 6) popover.append(make("p", "note", `and ${shown.length - 6} more`));
    const bad = finite(token.certified);
    if (bad !== null)
      popover.append(make("p", "note", bad > 0 ? `certified against ${bad} bad passage${bad > 1 ? "s" : ""}` : "not certified: one bad passage could change it"));
  }

  function place(anchor) {
    const box = anchor.getClientRects()[0] ?? anchor.getBoundingClientRect();
    popover.hidden = false;
    const { width, height } = popover.getBoundingClientRect();
    const room = document.documentElement.clientWidth - width - 8;
    const left = Math.max(8, Math.min(box.left + box.width / 2 - width / 2, room));
    const above = box.top - height - 8; // over what has been read already; under the strip, whose words stand above it
    const top = above > 0 && !strip.contains(anchor) ? above : box.bottom + 8;
    popover.style.left = `${left + scrollX}px`;
    popover.style.top = `${top + scrollY}px`;
  }

  let shown = -1;
  let walked = 0; // where the keys stand: the answer's one tab stop

  function show(i, anchor) {
    hide();
    shown = i;
    words[i]?.classList.add("on");
    columns[i].classList.add("on");
    describe(i);
    place(anchor ?? words[i] ?? columns[i]);
  }

  function hide() {
    if (shown < 0) return;
    words[shown]?.classList.remove("on");
    columns[shown].classList.remove("on");
    popover.hidden = true;
    shown = -1;
  }

  function walk(i) {
    if (words[walked]) words[walked].tabIndex = -1;
    walked = Math.max(0, Math.min(tokens.length - 1, i));
    const word = words[walked];
    if (!word) return show(walked);
    word.tabIndex = 0;
    word.setAttribute("aria-describedby", "popover");
    word.focus();
    show(walked);
  }

  for (const area of [answer, strip]) {
    area.addEventListener("pointerover", (event) => {
      const target = event.target.closest("[data-i]");
      if (target) show(Number(target.dataset.i), target);
    });
    area.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
    area.addEventListener("click", (event) => {
      const target = event.target.closest("[data-i]");
      if (target) walk(Number(target.dataset.i));
    });
  }
  answer.addEventListener("focusin", (event) => {
    if (event.target.matches(".t") && words[shown] !== event.target) show(Number(event.target.dataset.i));
  });
  answer.addEventListener("focusout", hide);
  answer.addEventListener("keydown", (event) => {
    const forward = rightToLeft ? "ArrowLeft" : "ArrowRight";
    const step = { [forward]: 1, ArrowDown: 1, [rightToLeft ? "ArrowRight" : "ArrowLeft"]: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") hide();
    else if (event.key === "Home") walk(0);
    else if (event.key === "End") walk(tokens.length - 1);
    else if (step) walk(walked + step);
    else return;
    event.preventDefault();
  });
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest("#answer, #strip")) hide();
  });
  const start = words.find((word) => word);
  if (start) start.tabIndex = 0;
})();
