/** The graph as the server sends it (openbook/answer/graph_page/data.py), and what follows from it. */

export interface Community {
  title: string;
  key: string[];
  said: number[];
  size: number;
  x: number;
  y: number;
  r: number;
}

type Row = [
  name: string,
  kind: string,
  community: number,
  x: number,
  y: number,
  strength: number,
  said: number[],
  forms: string,
];

export interface GraphData {
  communities: Community[];
  entities: Row[];
  relations: [a: number, b: number, weight: number, sentence: number][];
  sentences: [document: number, place: string, text: string][];
  documents: string[];
}

export interface Entity {
  name: string;
  kind: string;
  home: number;
  x: number;
  y: number;
  strength: number;
  said: number[];
  forms: string;
  radius: number; // on the screen, before it grows with the view
}

export interface Joint {
  other: number;
  weight: number;
  sentence: number;
}

/** What is chosen in the picture. */
export type Chosen = { entity: number } | { community: number } | null;

export class Graph {
  readonly communities: Community[];
  readonly entities: Entity[];
  readonly relations: GraphData["relations"];
  readonly joined: Joint[][];
  readonly strongest: number[]; // entities, the strongest first

  constructor(readonly data: GraphData) {
    this.communities = data.communities;
    this.relations = data.relations;
    const most = Math.max(1e-9, ...data.entities.map((row) => row[5]));
    this.entities = data.entities.map(([name, kind, home, x, y, strength, said, forms]) => ({
      name,
      kind,
      home,
      x,
      y,
      strength,
      said,
      forms,
      radius: 2.2 + 7 * Math.sqrt(strength / most),
    }));
    this.joined = this.entities.map(() => []);
    for (const [a, b, weight, sentence] of data.relations) {
      this.joined[a]!.push({ other: b, weight, sentence });
      this.joined[b]!.push({ other: a, weight, sentence });
    }
    for (const joints of this.joined) joints.sort((one, other) => other.weight - one.weight);
    this.strongest = this.entities
      .map((_, i) => i)
      .sort((i, j) => this.entities[j]!.strength - this.entities[i]!.strength || i - j);
  }

  /** Of some sentences, each text once. */
  apart(numbers: number[]): number[] {
    return [...new Map(numbers.map((n) => [this.data.sentences[n]?.[2] ?? "", n])).values()];
  }

  /** Entities whose name or other form holds the text, the strongest first. */
  found(text: string, most = 60): number[] {
    const wanted = text.trim().toLocaleLowerCase();
    return this.strongest
      .filter((i) => `${this.entities[i]!.name}, ${this.entities[i]!.forms}`.toLocaleLowerCase().includes(wanted))
      .slice(0, most);
  }
}
