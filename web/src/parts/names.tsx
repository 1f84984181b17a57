/** Beside the map: communities, what was found, and what one name is related to, with the sentences that say so. */

import { useSignal } from "@preact/signals";
import { counted } from "../lib/format";
import { hue } from "../lib/reading";
import { clean, short } from "../lib/text";
import type { Chosen, Graph } from "../map/graph";

interface Props {
  graph: Graph;
  choose: (what: Chosen) => void;
}

const RELATED = 24;
const MARKED = 12; // names of a community that are marked in its sentences

export function Communities({ graph, choose }: Props) {
  return (
    <ol class="list" aria-label="communities, the largest first">
      {graph.communities.map((community, i) => (
        <li key={i} class={hue(i + 1)}>
          <button type="button" onClick={() => choose({ community: i })}>
            <span class="dot" aria-hidden="true" />
            <b dir="auto">{short(community.title, 90)}</b> <span class="faint">{community.size}</span>
          </button>
        </li>
      ))}
    </ol>
  );
}

export function Found({ graph, text, choose }: Props & { text: string }) {
  const found = graph.found(text);
  if (!found.length) return <p class="faint">No name like this is on the map.</p>;
  return (
    <ol class="list" aria-label="names found">
      {found.map((i) => {
        const entity = graph.entities[i]!;
        return (
          <li key={i} class={hue(entity.home + 1)}>
            <button type="button" onClick={() => choose({ entity: i })}>
              <span class="dot" aria-hidden="true" />
              <b dir="auto">{short(entity.name, 90)}</b>{" "}
              <span class="faint">{short(graph.communities[entity.home]?.title.split(", ")[0], 40)}</span>
            </button>
          </li>
        );
      })}
    </ol>
  );
}

export function Detail({ graph, chosen, choose }: Props & { chosen: NonNullable<Chosen> }) {
  return "entity" in chosen ? (
    <Name key={chosen.entity} graph={graph} at={chosen.entity} choose={choose} />
  ) : (
    <Group graph={graph} at={chosen.community} choose={choose} />
  );
}

function Name({ graph, at, choose }: Props & { at: number }) {
  const open = useSignal(-1);
  const entity = graph.entities[at]!;
  const joints = graph.joined[at]!.slice(0, RELATED);
  const joint = joints.find(({ other }) => other === open.value);
  return (
    <div class={`detail ${hue(entity.home + 1)}`}>
      <button type="button" class="link" onClick={() => choose(null)}>
        all communities
      </button>
      <h2 dir="auto">{clean(entity.name)}</h2>
      <p class="meta">
        {clean(entity.kind)} in{" "}
        <button type="button" class="link" onClick={() => choose({ community: entity.home })}>
          {short(graph.communities[entity.home]?.title, 90)}
        </button>
        {entity.forms && ` · also: ${short(entity.forms, 200)}`}
      </p>
      {joints.length > 0 && <h3>related; choose one to see what joins them</h3>}
      <p class="related">
        {joints.map(({ other }) => (
          <button
            key={other}
            type="button"
            aria-expanded={open.value === other}
            onClick={() => (open.value === other ? choose({ entity: other }) : (open.value = other))}
          >
            {short(graph.entities[other]!.name, 60)}
          </button>
        ))}
      </p>
      {joint && joint.sentence >= 0 && (
        <>
          <h3>what joins them; choose it again to go there</h3>
          <Quote graph={graph} at={joint.sentence} names={[entity.name, graph.entities[joint.other]!.name]} />
        </>
      )}
      {entity.said.length > 0 && <h3>said in</h3>}
      {graph.apart(entity.said).map((n) => (
        <Quote key={n} graph={graph} at={n} names={[entity.name]} />
      ))}
    </div>
  );
}

function Group({ graph, at, choose }: Props & { at: number }) {
  const community = graph.communities[at]!;
  const members = graph.strongest.filter((i) => graph.entities[i]!.home === at).slice(0, RELATED);
  return (
    <div class={`detail ${hue(at + 1)}`}>
      <button type="button" class="link" onClick={() => choose(null)}>
        all communities
      </button>
      <h2 dir="auto">{clean(community.title)}</h2>
      <p class="meta">a community of {counted(community.size, "name")}</p>
      <p class="related">
        {members.map((i) => (
          <button key={i} type="button" onClick={() => choose({ entity: i })}>
            {short(graph.entities[i]!.name, 60)}
          </button>
        ))}
      </p>
      {community.said.length > 0 && <h3>the sentences that carry it</h3>}
      {graph.apart(community.said).map((n) => (
        <Quote key={n} graph={graph} at={n} names={community.key.slice(0, MARKED)} />
      ))}
    </div>
  );
}

/** A sentence with its document and place; the names that are looked at are marked in it. */
function Quote({ graph, at, names }: { graph: Graph; at: number; names: string[] }) {
  const [document, place, text] = graph.data.sentences[at] ?? [0, "", ""];
  return (
    <blockquote dir="auto">
      {marked(clean(text), names.map(clean)).map((part, i) =>
        part.name ? <mark key={i}>{part.text}</mark> : part.text,
      )}
      <footer>
        <bdi>{short(graph.data.documents[document], 120)}</bdi>, {place}
      </footer>
    </blockquote>
  );
}

/** The text cut at the names, whatever their case; of two that begin at one place the longer. */
function marked(text: string, names: string[]): { text: string; name: boolean }[] {
  const wanted = names.filter((name) => name.length > 1).sort((a, b) => b.length - a.length);
  if (!wanted.length) return [{ text, name: false }];
  const pattern = new RegExp(
    `(${wanted.map((name) => name.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&")).join("|")})`,
    "giu",
  );
  return text.split(pattern).map((part, i) => ({ text: part, name: i % 2 === 1 }));
}
