// The list can be read without this: the script adds the map, the search and what a name is related to.
// Nothing of a document is ever parsed as HTML: elements are created, texts are set.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [NAME, KIND, HOME, X, Y, STRENGTH, SAID, FORMS] = [0, 1, 2, 3, 4, 5, 6, 7];
  const { entities, relations, communities, sentences, documents } = data;
  const find = (id) => document.getElementById(id);
  const canvas = find("canvas");
  const pen = canvas.getContext("2d");
  const detail = find("detail");
  const HUES = 8;
  const MOST_FOUND = 60;

  document.documentElement.classList.add("js");

  function make(tag, className = "", text = "") {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = text;
    return element;
  }
  const hueClass = (home) => `s${(home % HUES) + 1}${home >= HUES ? " again" : ""}`;

  // --- What is joined to what. ------------------------------------------------------------------------------------
  const joined = entities.map(() => []);
  relations.forEach(([a, b, weight, sentence]) => {
    joined[a].push({ other: b, weight, sentence });
    joined[b].push({ other: a, weight, sentence });
  });
  const strongest = entities.map((_, i) => i).sort((i, j) => entities[j][STRENGTH] - entities[i][STRENGTH] || i - j);
  const most = strongest.length ? Math.max(entities[strongest[0]][STRENGTH], 1e-9) : 1;
  const radius = entities.map((e) => 2.2 + 7 * Math.sqrt(e[STRENGTH] / most));

  // --- Colours follow the page's. ---------------------------------------------------------------------------------
  let colours = {};
  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    colours = {
      ink: of("--ink"), soft: of("--soft"), faint: of("--faint"), stage: of("--stage"), font: of("--sans"),
      hues: Array.from({ length: HUES }, (_, i) => of(`--s${i + 1}`)),
    };
  }
  const hue = (home) => colours.hues[home % HUES];

  // --- The view: a place of the map in the middle, and how large it is. --------------------------------------------
  const view = { x: 0, y: 0, scale: 1 };
  let width = 0, height = 0, waiting = false;
  let chosen = null; // {entity} or {community}
  let hovered = -1;

  function whole() {
    if (!communities.length) return { x: 0, y: 0, scale: 1 };
    const left = Math.min(...communities.map((c) => c.x - c.r)), right = Math.max(...communities.map((c) => c.x + c.r));
    const top = Math.min(...communities.map((c) => c.y - c.r)), bottom = Math.max(...communities.map((c) => c.y + c.r));
    const scale = Math.min(width / (right - left + 60), height / (bottom - top + 60));
    return { x: (left + right) / 2, y: (top + bottom) / 2, scale: Math.max(scale, 1e-3) };
  }
  const least = () => whole().scale * 0.5;
  const toScreen = (x, y) => [(x - view.x) * view.scale + width / 2, (y - view.y) * view.scale + height / 2];
  const toMap = (sx, sy) => [(sx - width / 2) / view.scale + view.x, (sy - height / 2) / view.scale + view.y];

  function resize() {
    const ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
    const first = width === 0;
    [width, height] = [box.width, box.height];
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (first && width) Object.assign(view, whole());
    paint(); // at once: a canvas of a new size is empty
  }
  // While it moves only so much is drawn as fits into a frame; all of it when it rests.
  const SLOW = 24, REST = 160; // milliseconds: of a frame that takes too long; without a move until all is drawn
  let share = 1, last = 0, resting = 0;
  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame((now) => { waiting = false; frame(now); });
  }
  function frame(now) {
    const gap = now - last;
    last = now;
    if (gap < REST) share = gap > SLOW ? Math.max(0.04, share * 0.65) : Math.min(1, share * 1.06);
    paint(share);
    clearTimeout(resting);
    if (share < 1) resting = setTimeout(paint, REST);
  }

  function zoom(factor, sx = width / 2, sy = height / 2) {
    const [x, y] = toMap(sx, sy);
    view.scale = Math.min(Math.max(view.scale * factor, least()), 12);
    view.x = x - (sx - width / 2) / view.scale;
    view.y = y - (sy - height / 2) / view.scale;
    draw();
  }
  let flight = 0;
  /** Moves the view to a place; at once where the person wants no motion. */
  function fly(to) {
    const from = { ...view }, calm = matchMedia("(prefers-reduced-motion: reduce)").matches, mine = ++flight;
    if (calm || document.hidden) { Object.assign(view, to); draw(); return; }
    const began = performance.now();
    const step = (now) => {
      if (mine !== flight) return;
      const t = Math.min(1, Math.max(0, (now - began) / 350)), ease = t * t * (3 - 2 * t);
      view.x = from.x + (to.x - from.x) * ease;
      view.y = from.y + (to.y - from.y) * ease;
      view.scale = from.scale * (to.scale / from.scale) ** ease;
      frame(now);
      if (t < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  // --- Painting. --------------------------------------------------------------------------------------------------
  function paint(part = 1) {
    pen.fillStyle = colours.stage;
    pen.fillRect(0, 0, width, height);
    const near = chosen && "entity" in chosen ? new Set([chosen.entity, ...joined[chosen.entity].map((j) => j.other)]) : null;
    const home = chosen && "community" in chosen ? chosen.community : -1;
    const faded = (i) => (near ? !near.has(i) : home >= 0 && entities[i][HOME] !== home);
    discs(home, near);
    lines(near, home, part);
    dots(faded);
    labels(faded, near, home, part);
  }

  function discs(home, near) {
    communities.forEach((c, i) => {
      const [sx, sy] = toScreen(c.x, c.y), r = c.r * view.scale;
      if (sx + r < 0 || sx - r > width || sy + r < 0 || sy - r > height) return;
      pen.globalAlpha = i === home ? 0.16 : near || home >= 0 ? 0.04 : 0.08;
      pen.fillStyle = hue(i);
      pen.beginPath();
      pen.arc(sx, sy, r, 0, 2 * Math.PI);
      pen.fill();
    });
    pen.globalAlpha = 1;
  }

  function lines(near, home, part) {
    const groups = communities.map(() => new Path2D()), between = new Path2D(), bright = new Path2D();
    const all = view.scale > 0.35 ? relations.length : Math.min(relations.length, 3000); // the weightiest come first
    const centre = chosen && "entity" in chosen ? chosen.entity : -1, reach = near ? all : Math.ceil(all * part);
    const k = view.scale, mx = width / 2 - view.x * k, my = height / 2 - view.y * k;
    for (let n = 0; n < reach; n++) {
      const a = relations[n][0], b = relations[n][1], one = entities[a], other = entities[b];
      const mine = a === centre || b === centre;
      if (near && !mine && !(near.has(a) && near.has(b))) continue;
      const ax = one[X] * k + mx, ay = one[Y] * k + my, bx = other[X] * k + mx, by = other[Y] * k + my;
      if (Math.max(ax, bx) < 0 || Math.min(ax, bx) > width || Math.max(ay, by) < 0 || Math.min(ay, by) > height) continue;
      const path = mine ? bright : one[HOME] === other[HOME] ? groups[one[HOME]] : between;
      path.moveTo(ax, ay);
      path.lineTo(bx, by);
    }
    pen.lineWidth = Math.min(1.2, 0.5 + view.scale * 0.3);
    pen.strokeStyle = colours.faint;
    pen.globalAlpha = home >= 0 ? 0.05 : 0.13;
    pen.stroke(between);
    groups.forEach((path, i) => {
      pen.globalAlpha = home >= 0 && i !== home ? 0.06 : 0.3;
      pen.strokeStyle = hue(i);
      pen.stroke(path);
    });
    pen.globalAlpha = 0.5;
    pen.lineWidth = 1.2;
    pen.strokeStyle = colours.soft;
    pen.stroke(bright);
    pen.globalAlpha = 1;
  }

  const grown = () => Math.min(2.4, Math.max(0.55, Math.sqrt(view.scale) * 1.1));
  /** Dots of one colour are one shape: thousands of small ones would each take the pen. */
  function dots(faded) {
    const size = grown(), k = view.scale, mx = width / 2 - view.x * k, my = height / 2 - view.y * k;
    const shapes = Array.from({ length: 2 * HUES }, () => new Path2D());
    for (let i = 0; i < entities.length; i++) {
      const e = entities[i], sx = e[X] * k + mx, sy = e[Y] * k + my, r = radius[i] * size;
      if (sx < -20 || sx > width + 20 || sy < -20 || sy > height + 20) continue;
      const shape = shapes[(e[HOME] % HUES) + (faded(i) ? HUES : 0)];
      if (r < 1.6) { shape.rect(sx - r, sy - r, 2 * r, 2 * r); continue; } // nobody sees the corners
      shape.moveTo(sx + r, sy);
      shape.arc(sx, sy, r, 0, 2 * Math.PI);
    }
    for (let h = 2 * HUES - 1; h >= 0; h--) {
      pen.globalAlpha = h < HUES ? 1 : 0.18;
      pen.fillStyle = colours.hues[h % HUES];
      pen.fill(shapes[h]);
    }
    pen.globalAlpha = 1;
    pen.lineWidth = 2;
    pen.strokeStyle = colours.ink;
    for (const i of new Set([hovered, chosen && "entity" in chosen ? chosen.entity : -1])) {
      if (i < 0) continue;
      const [sx, sy] = toScreen(entities[i][X], entities[i][Y]);
      pen.beginPath();
      pen.arc(sx, sy, radius[i] * size, 0, 2 * Math.PI);
      pen.stroke();
    }
  }

  /** Names, the strongest first, where there is room; a community's own while it is small. */
  function labels(faded, near, home, part) {
    const taken = [];
    const free = (x, y, w, h) => taken.every((t) => x > t[2] || x + w < t[0] || y > t[3] || y + h < t[1]);
    const write = (text, sx, sy, px, weight, colour, always) => {
      pen.font = `${weight} ${px}px ${colours.font}`;
      const shown = text.length > 42 ? `${text.slice(0, 41)}…` : text, w = pen.measureText(shown).width;
      const [x, y] = [sx - w / 2, sy - px / 2];
      if (!always && !free(x - 3, y - 1, w + 6, px + 2)) return false;
      taken.push([x - 3, y - 1, x + w + 3, y + px + 1]);
      pen.lineWidth = 3.5;
      pen.lineJoin = "round";
      pen.strokeStyle = colours.stage;
      pen.strokeText(shown, x, sy + px * 0.35);
      pen.fillStyle = colour;
      pen.fillText(shown, x, sy + px * 0.35);
      return true;
    };
    const inside = (sx, sy) => sx > -60 && sx < width + 60 && sy > -10 && sy < height + 10;
    const above = (i) => {
      const e = entities[i], [sx, sy] = toScreen(e[X], e[Y]);
      return [sx, sy - radius[i] * grown() - 8];
    };
    for (const i of [hovered, chosen && chosen.entity])
      if (Number.isInteger(i) && i >= 0) write(entities[i][NAME], ...above(i), 13, 650, colours.ink, true);
    if (!near)
      communities.forEach((c, i) => {
        const [sx, sy] = toScreen(c.x, c.y), r = c.r * view.scale;
        if (r < 26 || r > Math.min(width, height) * 0.6 || !inside(sx, sy) || (home >= 0 && i !== home)) return;
        const lines = r > 60 ? c.title.split(", ") : [c.title.split(", ")[0]];
        const px = Math.round(Math.min(15, 10 + r / 40));
        lines.forEach((line, k) => write(line, sx, sy + (k - (lines.length - 1) / 2) * px * 1.25, px, 650, colours.ink, false));
      });
    let shown = 0;
    const room = near ? 60 : Math.ceil(Math.min(140, (width * height) / 7000) * Math.max(0.25, part));
    for (const i of near ? [...near].sort((a, b) => entities[b][STRENGTH] - entities[a][STRENGTH]) : strongest) {
      if (shown >= room) break;
      if (faded(i) || i === hovered || (!near && radius[i] * view.scale < 2.1)) continue;
      const [sx, sy] = above(i);
      if (inside(sx, sy) && write(entities[i][NAME], sx, sy, 12, 450, colours.soft, false)) shown++;
    }
  }

  // --- Pointer. ---------------------------------------------------------------------------------------------------
  function at(sx, sy) {
    let best = -1, nearest = Infinity;
    entities.forEach((e, i) => {
      const [x, y] = toScreen(e[X], e[Y]), far = Math.hypot(x - sx, y - sy);
      if (far < Math.max(9, radius[i] * grown() + 3) && far < nearest) [best, nearest] = [i, far];
    });
    return best;
  }
  const discAt = (sx, sy) => {
    const [x, y] = toMap(sx, sy);
    return communities.findIndex((c) => Math.hypot(c.x - x, c.y - y) <= c.r);
  };
  const held = new Map(); // pointers that are down
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, [event.offsetX, event.offsetY]);
    if (held.size === 1) moved = 0;
    flight++;
    canvas.classList.add("held");
  });
  canvas.addEventListener("pointermove", (event) => {
    const here = [event.offsetX, event.offsetY], before = held.get(event.pointerId);
    if (!before) {
      const over = at(...here);
      if (over !== hovered) { hovered = over; canvas.classList.toggle("over", over >= 0); draw(); }
      return;
    }
    const [dx, dy] = [here[0] - before[0], here[1] - before[1]];
    moved += Math.abs(dx) + Math.abs(dy);
    if (held.size === 2) {
      const other = [...held].find(([id]) => id !== event.pointerId)[1];
      const factor = Math.hypot(here[0] - other[0], here[1] - other[1]) / Math.max(1, Math.hypot(before[0] - other[0], before[1] - other[1]));
      zoom(factor, (here[0] + other[0]) / 2, (here[1] + other[1]) / 2);
    }
    view.x -= dx / held.size / view.scale;
    view.y -= dy / held.size / view.scale;
    held.set(event.pointerId, here);
    draw();
  });
  const release = (event) => {
    if (!held.delete(event.pointerId)) return;
    if (!held.size) canvas.classList.remove("held");
    if (event.type !== "pointerup" || moved > 5) return;
    const entity = at(event.offsetX, event.offsetY), disc = discAt(event.offsetX, event.offsetY);
    if (entity >= 0) choose({ entity }, false);
    else if (disc >= 0) choose({ community: disc }, false);
    else choose(null);
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { if (hovered >= 0) { hovered = -1; draw(); } });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    flight++;
    zoom(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.0016)), event.offsetX, event.offsetY);
  }, { passive: false });

  // --- Keys. ------------------------------------------------------------------------------------------------------
  const keys = {
    ArrowLeft: () => pan(-1, 0), ArrowRight: () => pan(1, 0), ArrowUp: () => pan(0, -1), ArrowDown: () => pan(0, 1),
    "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3), 0: () => fly(whole()),
  };
  function pan(dx, dy) {
    view.x += (dx * 60) / view.scale;
    view.y += (dy * 60) / view.scale;
    draw();
  }
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    flight++;
    keys[event.key]();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { search.value = ""; list(); choose(null); }
    if (event.key === "/" && document.activeElement !== search) { event.preventDefault(); search.focus(); }
  });
  find("in").addEventListener("click", () => zoom(1.5));
  find("out").addEventListener("click", () => zoom(1 / 1.5));
  find("fit").addEventListener("click", () => fly(whole()));

  // --- What was chosen, beside the map. ---------------------------------------------------------------------------
  function choose(what, move = true) {
    chosen = what;
    detail.hidden = !what;
    detail.replaceChildren();
    if (what && "entity" in what) showEntity(what.entity);
    if (what && "community" in what) showCommunity(what.community);
    if (what) document.querySelector(".rail").scrollTop = 0;
    if (what && move) {
      const to = "entity" in what ? entities[what.entity] : null, disc = communities[to ? to[HOME] : what.community];
      const scale = to ? Math.max(view.scale, 1.4) : Math.min(width, height) / (2.3 * disc.r);
      fly({ x: to ? to[X] : disc.x, y: to ? to[Y] : disc.y, scale });
    } else draw();
  }

  function button(text, act) {
    const made = make("button", "", text);
    made.type = "button";
    made.addEventListener("click", act);
    return made;
  }

  /** A sentence with its document and place; names in it that are looked at are marked. */
  function quote(number, names = []) {
    const [document_, place, text] = sentences[number];
    const made = make("blockquote"), foot = make("footer"), name = make("bdi", "", documents[document_]);
    made.dir = "auto";
    let rest = text;
    const low = () => rest.toLowerCase();
    for (;;) {
      const found = names.map((n) => [low().indexOf(n.toLowerCase()), n.length]).filter(([i, n]) => i >= 0 && n > 1);
      if (!found.length || low().length !== rest.length) break;
      const [i, n] = found.reduce((a, b) => (b[0] < a[0] || (b[0] === a[0] && b[1] > a[1]) ? b : a));
      made.append(rest.slice(0, i), make("mark", "", rest.slice(i, i + n)));
      rest = rest.slice(i + n);
    }
    made.append(rest);
    foot.append(name, `, ${place}`);
    made.append(foot);
    return made;
  }

  /** Of sentences that are the same word for word, one. */
  const apart = (numbers) => [...new Map(numbers.map((n) => [sentences[n][2], n])).values()];

  function showEntity(i) {
    const e = entities[i], home = communities[e[HOME]];
    detail.className = `detail ${hueClass(e[HOME])}`;
    const title = make("h2", "", e[NAME]), meta = make("p", "meta");
    title.dir = "auto";
    meta.append(`${e[KIND]} in `, button(home.title, () => choose({ community: e[HOME] })));
    if (e[FORMS]) meta.append(` · also: ${e[FORMS]}`);
    detail.append(title, meta);
    const others = [...joined[i]].sort((a, b) => b.weight - a.weight).slice(0, 24);
    if (others.length) {
      const row = make("div", "related"), shown = make("div");
      detail.append(make("h3", "", "related; choose one to see what joins them"), row, shown);
      for (const { other, sentence } of others) {
        const chip = button(entities[other][NAME], () => {
          const open = chip.getAttribute("aria-expanded") === "true";
          for (const each of row.children) each.setAttribute("aria-expanded", "false");
          shown.replaceChildren();
          if (open) { choose({ entity: other }); return; }
          chip.setAttribute("aria-expanded", "true");
          if (sentence >= 0) shown.append(make("h3", "", "what joins them; choose it again to go there"), quote(sentence, [e[NAME], entities[other][NAME]]));
        });
        chip.setAttribute("aria-expanded", "false");
        row.append(chip);
      }
    }
    if (e[SAID].length) detail.append(make("h3", "", "said in"));
    for (const number of apart(e[SAID])) detail.append(quote(number, [e[NAME]]));
  }

  function showCommunity(i) {
    const c = communities[i];
    detail.className = `detail ${hueClass(i)}`;
    const title = make("h2", "", c.title), row = make("div", "related");
    title.dir = "auto";
    detail.append(title, make("p", "meta", `a community of ${c.size.toLocaleString("en")} names`), row);
    strongest.filter((n) => entities[n][HOME] === i).slice(0, 24)
      .forEach((n) => row.append(button(entities[n][NAME], () => choose({ entity: n }))));
    if (c.said.length) detail.append(make("h3", "", "the sentences that carry it"));
    for (const number of apart(c.said)) detail.append(quote(number, c.key.slice(0, 12)));
  }
  for (const summary of document.querySelectorAll("summary"))
    summary.addEventListener("click", (event) => { event.preventDefault(); choose({ community: Number(summary.dataset.community) }); });

  // --- Search. ----------------------------------------------------------------------------------------------------
  const search = find("search"), found = find("found");
  const folded = entities.map((e) => `${e[NAME]}, ${e[FORMS]}`.toLocaleLowerCase());
  function list() {
    const wanted = search.value.trim().toLocaleLowerCase();
    found.replaceChildren();
    found.hidden = !wanted;
    find("communities").hidden = Boolean(wanted);
    if (!wanted) return;
    const hits = strongest.filter((i) => folded[i].includes(wanted)).slice(0, MOST_FOUND);
    for (const i of hits) {
      const item = make("li", hueClass(entities[i][HOME])), link = button("", () => choose({ entity: i }));
      const dot = make("span", "dot"), name = make("b", "", entities[i][NAME]);
      dot.setAttribute("aria-hidden", "true");
      name.dir = "auto";
      link.append(dot, name, make("span", "faint", communities[entities[i][HOME]].title.split(", ")[0]));
      item.append(link);
      found.append(item);
    }
    if (!hits.length) found.append(make("li", "faint", "no name like this is in the picture"));
  }
  search.addEventListener("input", list);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") found.querySelector("button")?.click();
  });

  // --- A name after # in the address is chosen: the page can be linked to at a place. ------------------------------
  function follow() {
    let name = "";
    try { name = decodeURIComponent(location.hash.slice(1)); } catch { return; }
    const entity = name ? strongest.find((i) => entities[i][NAME] === name) : undefined;
    if (entity !== undefined) choose({ entity });
  }
  addEventListener("hashchange", follow);

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); draw(); });
  readColours();
  new ResizeObserver(resize).observe(canvas);
  resize();
  follow();
})();
