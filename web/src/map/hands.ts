/** Pointer, wheel and keys on the map. */

import type { Camera } from "./camera";
import type { Chosen } from "./graph";
import type { Painter } from "./painter";

const CLICK = 5; // pixels that a pointer may move and still have clicked
const STEP = 60; // pixels that an arrow key moves

/** Listens on the canvas until it is taken away; `choose` is told what was clicked. */
export function listen(
  canvas: HTMLCanvasElement,
  camera: Camera,
  painter: Painter,
  draw: () => void,
  choose: (what: Chosen) => void,
): () => void {
  const control = new AbortController();
  const on = <K extends keyof HTMLElementEventMap>(
    kind: K,
    act: (event: HTMLElementEventMap[K]) => void,
    passive = true,
  ): void => canvas.addEventListener(kind, act, { signal: control.signal, passive });
  const held = new Map<number, [number, number]>(); // pointers that are down
  let moved = 0;

  const hover = (i: number): void => {
    if (i === painter.hovered) return;
    painter.hovered = i;
    canvas.classList.toggle("over", i >= 0);
    draw();
  };
  on("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, [event.offsetX, event.offsetY]);
    if (held.size === 1) moved = 0;
    canvas.classList.add("held");
  });
  on("pointermove", (event) => {
    const here: [number, number] = [event.offsetX, event.offsetY];
    const before = held.get(event.pointerId);
    if (!before) {
      hover(painter.at(...here));
      return;
    }
    const [dx, dy] = [here[0] - before[0], here[1] - before[1]];
    moved += Math.abs(dx) + Math.abs(dy);
    const other = [...held].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const apart = (from: [number, number]): number => Math.max(1, Math.hypot(from[0] - other[0], from[1] - other[1]));
      camera.zoom(apart(here) / apart(before), (here[0] + other[0]) / 2, (here[1] + other[1]) / 2);
    }
    held.set(event.pointerId, here);
    camera.pan(dx / held.size, dy / held.size);
  });
  const release = (event: PointerEvent): void => {
    if (!held.delete(event.pointerId)) return;
    if (!held.size) canvas.classList.remove("held");
    if (event.type !== "pointerup" || moved > CLICK) return;
    const entity = painter.at(event.offsetX, event.offsetY);
    const community = painter.discAt(event.offsetX, event.offsetY);
    choose(entity >= 0 ? { entity } : community >= 0 ? { community } : null);
  };
  on("pointerup", release);
  on("pointercancel", release);
  on("pointerleave", () => hover(-1));
  on(
    "wheel",
    (event) => {
      event.preventDefault();
      camera.zoom(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.0016)), event.offsetX, event.offsetY);
    },
    false,
  );
  const keys: Record<string, () => void> = {
    ArrowLeft: () => camera.pan(STEP, 0),
    ArrowRight: () => camera.pan(-STEP, 0),
    ArrowUp: () => camera.pan(0, STEP),
    ArrowDown: () => camera.pan(0, -STEP),
    "+": () => camera.zoom(1.3),
    "=": () => camera.zoom(1.3),
    "-": () => camera.zoom(1 / 1.3),
    "0": () => camera.fly(camera.whole()),
    Escape: () => choose(null),
  };
  on(
    "keydown",
    (event) => {
      const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : keys[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    },
    false,
  );
  return () => control.abort();
}
