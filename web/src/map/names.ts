/** Names on the map: the strongest first, where there is room. */

import { clean } from "../lib/text";
import type { Camera } from "./camera";
import type { Chosen, Graph } from "./graph";
import type { Colours } from "./painter";

const LONGEST = 42;
const MOST = 140;
const FEW = 12; // names of a community that are all shown

type Box = [left: number, top: number, right: number, bottom: number];

export class Names {
  readonly #wide = new Map<string, number>();
  #taken: Box[] = [];

  constructor(
    private readonly pen: CanvasRenderingContext2D,
    private readonly graph: Graph,
    private readonly camera: Camera,
  ) {}

  paint(
    ink: Colours,
    near: Set<number> | null,
    home: number,
    hovered: number,
    chosen: Chosen,
    radius: (i: number) => number,
  ): void {
    this.#taken = [];
    const { entities, strongest } = this.graph;
    const above = (i: number): [number, number] => {
      const [sx, sy] = this.camera.toScreen(entities[i]!.x, entities[i]!.y);
      return [sx, sy - radius(i) - 8];
    };
    for (const i of new Set([hovered, chosen && "entity" in chosen ? chosen.entity : -1]))
      if (i >= 0) this.#write(ink, entities[i]!.name, ...above(i), 13, 650, ink.ink, true);
    if (!near) this.#communities(ink, home);
    const room = near ? 60 : Math.min(MOST, Math.round((this.camera.width * this.camera.height) / 7000));
    const order = near ? [...near].sort((a, b) => entities[b]!.strength - entities[a]!.strength) : strongest;
    let shown = 0;
    let tried = 0;
    for (const i of order) {
      if (shown >= room || tried > 6 * room) break;
      if (
        i === hovered ||
        (home >= 0 && entities[i]!.home !== home) ||
        (!near && entities[i]!.radius * this.camera.scale < 2.1)
      )
        continue;
      const [sx, sy] = above(i);
      if (!this.#inside(sx, sy)) continue;
      tried++;
      if (this.#write(ink, entities[i]!.name, sx, sy, 12, 450, ink.soft, false)) shown++;
    }
  }

  /** A community's own title while its disc is small; it would only be in the way of the names within. */
  #communities(ink: Colours, home: number): void {
    const { width, height, scale } = this.camera;
    this.graph.communities.forEach((c, i) => {
      const [sx, sy] = this.camera.toScreen(c.x, c.y);
      const r = c.r * scale;
      if (c.size <= FEW && r > 40) return; // its names have room of their own
      if (r < 26 || r > Math.min(width, height) * 0.6 || !this.#inside(sx, sy) || (home >= 0 && i !== home)) return;
      const parts = r > 60 ? c.title.split(", ") : [c.title.split(", ")[0]!];
      const size = Math.round(Math.min(15, 10 + r / 40));
      parts.forEach((part, k) =>
        this.#write(ink, part, sx, sy + (k - (parts.length - 1) / 2) * size * 1.25, size, 650, ink.ink, false),
      );
    });
  }

  #inside(sx: number, sy: number): boolean {
    return sx > -60 && sx < this.camera.width + 60 && sy > -10 && sy < this.camera.height + 10;
  }

  #write(
    ink: Colours,
    text: string,
    sx: number,
    sy: number,
    size: number,
    weight: number,
    colour: string,
    always: boolean,
  ): boolean {
    const font = `${weight} ${size}px ${ink.font}`;
    const name = clean(text);
    const shown = name.length > LONGEST ? `${name.slice(0, LONGEST - 1)}…` : name;
    const key = `${size} ${weight} ${shown}`;
    this.pen.font = font;
    let wide = this.#wide.get(key);
    if (wide === undefined) this.#wide.set(key, (wide = this.pen.measureText(shown).width));
    const box: Box = [sx - wide / 2 - 3, sy - size / 2 - 1, sx + wide / 2 + 3, sy + size / 2 + 1];
    if (!always && this.#taken.some((t) => box[0] <= t[2] && box[2] >= t[0] && box[1] <= t[3] && box[3] >= t[1]))
      return false;
    this.#taken.push(box);
    this.pen.lineWidth = 3.5;
    this.pen.lineJoin = "round";
    this.pen.strokeStyle = ink.stage;
    this.pen.strokeText(shown, sx - wide / 2, sy + size * 0.35);
    this.pen.fillStyle = colour;
    this.pen.fillText(shown, sx - wide / 2, sy + size * 0.35);
    return true;
  }
}
