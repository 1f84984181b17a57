/** Which part of the map is seen, and how large. */

import { calm } from "../state/looks";
import type { Graph } from "./graph";

const LARGEST = 12;
const FLIGHT = 350; // milliseconds

export class Camera {
  x = 0;
  y = 0;
  scale = 1;
  width = 0;
  height = 0;
  moved = -Infinity; // when it last did, in the browser's milliseconds
  #flight = 0;

  constructor(
    private readonly graph: Graph,
    private readonly draw: () => void,
  ) {}

  /** The view in which everything is seen. */
  whole(): { x: number; y: number; scale: number } {
    const discs = this.graph.communities;
    if (!discs.length) return { x: 0, y: 0, scale: 1 };
    const [left, right] = [Math.min(...discs.map((c) => c.x - c.r)), Math.max(...discs.map((c) => c.x + c.r))];
    const [top, bottom] = [Math.min(...discs.map((c) => c.y - c.r)), Math.max(...discs.map((c) => c.y + c.r))];
    const scale = Math.min(this.width / (right - left + 60), this.height / (bottom - top + 60));
    return { x: (left + right) / 2, y: (top + bottom) / 2, scale: Math.max(scale, 1e-3) };
  }

  toScreen(x: number, y: number): [number, number] {
    return [(x - this.x) * this.scale + this.width / 2, (y - this.y) * this.scale + this.height / 2];
  }

  toMap(sx: number, sy: number): [number, number] {
    return [(sx - this.width / 2) / this.scale + this.x, (sy - this.height / 2) / this.scale + this.y];
  }

  /** Nearer or farther; what lies at that place of the screen stays there. */
  zoom(factor: number, sx = this.width / 2, sy = this.height / 2): void {
    this.#flight++;
    const [x, y] = this.toMap(sx, sy);
    this.scale = Math.min(Math.max(this.scale * factor, this.whole().scale * 0.5), LARGEST);
    this.x = x - (sx - this.width / 2) / this.scale;
    this.y = y - (sy - this.height / 2) / this.scale;
    this.#changed();
  }

  /** By pixels of the screen. */
  pan(dx: number, dy: number): void {
    this.#flight++;
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.#changed();
  }

  /** Moves to a place; at once where the reader wants no motion. */
  fly(to: { x: number; y: number; scale: number }): void {
    const mine = ++this.#flight;
    if (calm() || document.hidden) {
      Object.assign(this, to);
      this.draw();
      return;
    }
    const from = { x: this.x, y: this.y, scale: this.scale };
    const began = performance.now();
    const step = (now: number): void => {
      if (mine !== this.#flight) return;
      const t = Math.min(1, Math.max(0, (now - began) / FLIGHT));
      const ease = t * t * (3 - 2 * t);
      this.x = from.x + (to.x - from.x) * ease;
      this.y = from.y + (to.y - from.y) * ease;
      this.scale = from.scale * (to.scale / from.scale) ** ease;
      this.#changed();
      if (t < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  #changed(): void {
    this.moved = performance.now();
    this.draw();
  }
}
