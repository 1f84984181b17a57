/** Draws the map on a canvas: discs, lines and dots as paths in the map's own coordinates, made once; names on top. */

import { HUES } from "../lib/reading";
import type { Camera } from "./camera";
import type { Chosen, Graph } from "./graph";
import { Names } from "./names";

const FEWER = 1_500; // lines that are drawn while the view moves: the weightiest come first

export interface Colours {
  ink: string;
  soft: string;
  faint: string;
  stage: string;
  font: string;
  hues: string[];
}

/** The page's colours as they are now, light or dark: a custom property would only say both. */
export function colours(of: Element): Colours {
  const probe = of.appendChild(document.createElement("span"));
  const read = (name: string): string => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const found = {
    ink: read("--ink"),
    soft: read("--soft"),
    faint: read("--faint"),
    stage: read("--wash"),
    font: getComputedStyle(probe).fontFamily,
    hues: Array.from({ length: HUES }, (_, i) => read(`--s${i + 1}`)),
  };
  probe.remove();
  return found;
}

interface Lines {
  within: Path2D[]; // a community each
  between: Path2D;
}

export class Painter {
  colours: Colours;
  chosen: Chosen = null;
  hovered = -1;
  readonly names: Names;
  #pen: CanvasRenderingContext2D;
  #all: Lines;
  #few: Lines;
  #dots: { size: number; paths: Path2D[] } = { size: 0, paths: [] };

  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly graph: Graph,
    private readonly camera: Camera,
  ) {
    this.#pen = canvas.getContext("2d")!;
    this.colours = colours(canvas.parentElement!);
    this.names = new Names(this.#pen, graph, camera);
    this.#all = this.#lines(graph.relations.length);
    this.#few = graph.relations.length > FEWER ? this.#lines(FEWER) : this.#all;
  }

  #lines(count: number): Lines {
    const { communities, entities, relations } = this.graph;
    const made: Lines = { within: communities.map(() => new Path2D()), between: new Path2D() };
    for (const [a, b] of relations.slice(0, count)) {
      const [one, other] = [entities[a]!, entities[b]!];
      const path = one.home === other.home ? made.within[one.home]! : made.between;
      path.moveTo(one.x, one.y);
      path.lineTo(other.x, other.y);
    }
    return made;
  }

  /** How large dots are drawn at this scale. */
  get grown(): number {
    return Math.min(2.4, Math.max(0.55, Math.sqrt(this.camera.scale) * 1.1));
  }

  radius(entity: number): number {
    return this.graph.entities[entity]!.radius * this.grown;
  }

  /** One picture. While the view moves, fewer lines: nobody can follow them then. */
  paint(moving: boolean): void {
    const { camera, colours: ink } = this;
    const ratio = devicePixelRatio || 1;
    const pen = this.#pen;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.globalAlpha = 1;
    pen.fillStyle = ink.stage;
    pen.fillRect(0, 0, camera.width, camera.height);
    const { scale } = camera;
    pen.setTransform(
      ratio * scale,
      0,
      0,
      ratio * scale,
      ratio * (camera.width / 2 - camera.x * scale),
      ratio * (camera.height / 2 - camera.y * scale),
    );
    const chosen = this.chosen;
    const near =
      chosen && "entity" in chosen
        ? new Set([chosen.entity, ...this.graph.joined[chosen.entity]!.map((joint) => joint.other)])
        : null;
    const home = chosen && "community" in chosen ? chosen.community : -1;
    this.#paintDiscs(home, near !== null);
    if (near) this.#paintStar(near);
    else this.#paintLines(moving || scale < 0.35 ? this.#few : this.#all, home);
    this.#paintDots(near, home);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.globalAlpha = 1;
    this.names.paint(ink, near, home, this.hovered, chosen, (i) => this.radius(i));
  }

  #seen(x: number, y: number, r: number): boolean {
    const [sx, sy] = this.camera.toScreen(x, y);
    const room = r * this.camera.scale;
    return sx + room > 0 && sx - room < this.camera.width && sy + room > 0 && sy - room < this.camera.height;
  }

  #paintDiscs(home: number, apart: boolean): void {
    const pen = this.#pen;
    this.graph.communities.forEach((c, i) => {
      if (!this.#seen(c.x, c.y, c.r)) return;
      pen.globalAlpha = i === home ? 0.16 : apart || home >= 0 ? 0.04 : 0.08;
      pen.fillStyle = this.colours.hues[i % HUES]!;
      pen.beginPath();
      pen.arc(c.x, c.y, c.r, 0, 2 * Math.PI);
      pen.fill();
    });
  }

  #paintLines(lines: Lines, home: number): void {
    const pen = this.#pen;
    pen.lineWidth = Math.min(1.2, 0.5 + this.camera.scale * 0.3) / this.camera.scale;
    pen.strokeStyle = this.colours.faint;
    pen.globalAlpha = home >= 0 ? 0.05 : 0.16;
    pen.stroke(lines.between);
    lines.within.forEach((path, i) => {
      const c = this.graph.communities[i]!;
      if (!this.#seen(c.x, c.y, c.r)) return;
      pen.globalAlpha = home >= 0 && i !== home ? 0.06 : 0.32;
      pen.strokeStyle = this.colours.hues[i % HUES]!;
      pen.stroke(path);
    });
  }

  /** The lines of one chosen name alone. */
  #paintStar(near: Set<number>): void {
    const pen = this.#pen;
    const { entities, joined } = this.graph;
    const from = (this.chosen as { entity: number }).entity;
    pen.lineWidth = 1.2 / this.camera.scale;
    pen.globalAlpha = 0.55;
    pen.strokeStyle = this.colours.soft;
    pen.beginPath();
    for (const { other } of joined[from]!) {
      if (!near.has(other)) continue;
      pen.moveTo(entities[from]!.x, entities[from]!.y);
      pen.lineTo(entities[other]!.x, entities[other]!.y);
    }
    pen.stroke();
  }

  #paintDots(near: Set<number> | null, home: number): void {
    const pen = this.#pen;
    const size = this.grown / this.camera.scale;
    if (size !== this.#dots.size)
      this.#dots = { size, paths: this.#discsOf((i) => this.graph.entities[i]!.radius * size) };
    this.#dots.paths.forEach((path, i) => {
      const c = this.graph.communities[i]!;
      if (!this.#seen(c.x, c.y, c.r + 20 / this.camera.scale)) return;
      pen.globalAlpha = near || (home >= 0 && i !== home) ? 0.2 : 1;
      pen.fillStyle = this.colours.hues[i % HUES]!;
      pen.fill(path);
    });
    pen.globalAlpha = 1;
    for (const i of near ?? []) this.#dot(i, size);
    const ringed = [this.hovered, this.chosen && "entity" in this.chosen ? this.chosen.entity : -1];
    pen.lineWidth = 2 / this.camera.scale;
    pen.strokeStyle = this.colours.ink;
    for (const i of ringed) if (i >= 0) (this.#dot(i, size), pen.stroke());
  }

  #dot(i: number, size: number): void {
    const entity = this.graph.entities[i]!;
    this.#pen.fillStyle = this.colours.hues[entity.home % HUES]!;
    this.#pen.beginPath();
    this.#pen.arc(entity.x, entity.y, entity.radius * size, 0, 2 * Math.PI);
    this.#pen.fill();
  }

  #discsOf(radius: (entity: number) => number): Path2D[] {
    const paths = this.graph.communities.map(() => new Path2D());
    this.graph.entities.forEach((entity, i) => {
      const path = paths[entity.home]!;
      const r = radius(i);
      path.moveTo(entity.x + r, entity.y);
      path.arc(entity.x, entity.y, r, 0, 2 * Math.PI);
    });
    return paths;
  }

  /** The entity at a place of the screen; −1 where there is none. */
  at(sx: number, sy: number): number {
    let [best, nearest] = [-1, Infinity];
    this.graph.entities.forEach((entity, i) => {
      const [x, y] = this.camera.toScreen(entity.x, entity.y);
      const far = Math.hypot(x - sx, y - sy);
      if (far < Math.max(9, this.radius(i) + 3) && far < nearest) [best, nearest] = [i, far];
    });
    return best;
  }

  /** The community whose disc is there. */
  discAt(sx: number, sy: number): number {
    const [x, y] = this.camera.toMap(sx, sy);
    return this.graph.communities.findIndex((c) => Math.hypot(c.x - x, c.y - y) <= c.r);
  }

  /** As many pixels as the canvas has on the screen. */
  resize(): void {
    const box = this.canvas.getBoundingClientRect();
    const first = this.camera.width === 0;
    [this.camera.width, this.camera.height] = [box.width, box.height];
    const ratio = devicePixelRatio || 1;
    [this.canvas.width, this.canvas.height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    if (first && box.width) Object.assign(this.camera, this.camera.whole());
    this.paint(false); // at once: a canvas of a new size is empty
  }
}
