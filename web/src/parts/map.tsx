/** The corpus as a map: names in communities, joined where they stand in one sentence more often than by chance. */

import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { get, message } from "../lib/client";
import { counted } from "../lib/format";
import { clean } from "../lib/text";
import { Camera } from "../map/camera";
import { Graph, type Chosen, type GraphData } from "../map/graph";
import { listen } from "../map/hands";
import { colours, Painter } from "../map/painter";
import * as books from "../state/books";
import { theme } from "../state/looks";
import { Communities, Detail, Found } from "./names";

const STILL = 140; // milliseconds after a motion until everything is drawn again

export function GraphMap() {
  const data = useSignal<GraphData | null>(null);
  const fault = useSignal("");
  const name = books.name.value;
  const version = books.book.value?.version;
  useEffect(() => {
    const control = new AbortController();
    fault.value = "";
    data.value = null;
    if (name)
      get<GraphData>(books.path("/graph"), control.signal).then(
        (found) => (data.value = found),
        (error: unknown) => control.signal.aborted || (fault.value = message(error)),
      );
    return () => control.abort();
  }, [name, version]);
  if (fault.value) return <p class="lead">{fault.value}</p>;
  if (!data.value) return <p class="state">reading what the documents name…</p>;
  if (!data.value.entities.length) return <p class="lead">Nothing that the documents name stands together yet.</p>;
  return <Atlas key={`${version} ${name}`} data={data.value} />;
}

function Atlas({ data }: { data: GraphData }) {
  const graph = useMemo(() => new Graph(data), [data]);
  const chosen = useSignal<Chosen>(null);
  const search = useSignal("");
  const canvas = useRef<HTMLCanvasElement>(null);
  const stage = useRef<{ camera: Camera; painter: Painter; draw: () => void } | null>(null);

  const choose = (what: Chosen, move = false): void => {
    chosen.value = what;
    const on = stage.current;
    if (!on) return;
    on.painter.chosen = what;
    if (what && move) {
      const entity = "entity" in what ? graph.entities[what.entity]! : null;
      const disc = graph.communities[entity ? entity.home : (what as { community: number }).community]!;
      const scale = entity
        ? Math.max(on.camera.scale, 1.4)
        : Math.min(on.camera.width, on.camera.height) / (2.3 * disc.r);
      on.camera.fly({ x: entity?.x ?? disc.x, y: entity?.y ?? disc.y, scale });
    } else on.draw();
  };

  useEffect(() => {
    const paper = canvas.current!;
    let asked = 0;
    let later: ReturnType<typeof setTimeout> | undefined;
    const paint = (): void => {
      asked = 0;
      const moving = performance.now() - camera.moved < STILL;
      painter.paint(moving);
      clearTimeout(later);
      if (moving) later = setTimeout(draw, STILL);
    };
    const draw = (): void => void (asked ||= requestAnimationFrame(paint));
    const camera = new Camera(graph, draw);
    const painter = new Painter(paper, graph, camera);
    stage.current = { camera, painter, draw };
    const watch = new ResizeObserver(() => painter.resize());
    watch.observe(paper);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const recolour = (): void => ((painter.colours = colours(paper.parentElement!)), draw());
    dark.addEventListener("change", recolour);
    const forget = listen(paper, camera, painter, draw, (what) => choose(what));
    return () => {
      forget();
      watch.disconnect();
      dark.removeEventListener("change", recolour);
      cancelAnimationFrame(asked);
      clearTimeout(later);
    };
  }, [graph]);

  useEffect(() => {
    const on = stage.current;
    if (on) ((on.painter.colours = colours(canvas.current!.parentElement!)), on.draw());
  }, [theme.value]);

  const camera = (): Camera | undefined => stage.current?.camera;
  return (
    <div class="atlas">
      <section class="stage" aria-label="the map">
        <canvas
          ref={canvas}
          tabIndex={0}
          role="img"
          aria-label={`A map of ${graph.entities.length} names in ${graph.communities.length} communities; the list beside it says the same. Arrow keys move, plus and minus zoom, 0 shows all.`}
        />
        <div class="tools">
          <button type="button" aria-label="nearer" onClick={() => camera()?.zoom(1.5)}>
            +
          </button>
          <button type="button" aria-label="farther" onClick={() => camera()?.zoom(1 / 1.5)}>
            −
          </button>
          <button type="button" aria-label="show all" onClick={() => camera()?.fly(camera()!.whole())}>
            ⤢
          </button>
        </div>
      </section>
      <aside class="rail" aria-label="names">
        <input
          type="search"
          aria-label="search the names"
          placeholder="Search names"
          autocomplete="off"
          onInput={(event) => (search.value = event.currentTarget.value)}
        />
        <p class="meta">
          {counted(graph.entities.length, "name")}, {counted(graph.relations.length, "relation")},{" "}
          {graph.communities.length === 1 ? "1 community" : `${graph.communities.length} communities`}
        </p>
        {search.value.trim() ? (
          <Found graph={graph} text={search.value} choose={(what) => choose(what, true)} />
        ) : chosen.value ? (
          <Detail graph={graph} chosen={chosen.value} choose={(what) => choose(what, true)} />
        ) : (
          <Communities graph={graph} choose={(what) => choose(what, true)} />
        )}
        <p class="hidden" aria-live="polite">
          {chosen.value &&
            ("entity" in chosen.value
              ? clean(graph.entities[chosen.value.entity]!.name)
              : clean(graph.communities[chosen.value.community]!.title))}
        </p>
      </aside>
    </div>
  );
}
