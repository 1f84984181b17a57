/** The settings of an answer: one line that says them, opened one control each. A change asks again. */

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";
import * as books from "../state/books";
import { change, type Pane, type Settings } from "../state/runs";

const WAYS: [string, string][] = [
  ["passages", "single passages"],
  ["graph", "paths through the graph"],
  ["closed", "nothing: the model alone"],
  ["auto", "what the question calls for"],
];

const ROBUST: [string, string][] = [
  ["", "not asked for"],
  ["0", "equal votes: each word says what it withstands"],
  ["1", "one bad passage, whatever it says"],
  ["2", "two bad passages"],
];

const say: { [K in keyof Settings]: (value: Settings[K]) => string } = {
  passages: (k) => `${k} passage${k === 1 ? "" : "s"}`,
  persistence: (tau) => `persistence ${tau}`,
  lambda_knn: (lambda) => (lambda ? `neighbours ${lambda}` : "no neighbours"),
  way: (way) => (way === "passages" ? "" : `reading ${WAYS.find(([name]) => name === way)?.[1] ?? way}`),
  version: (version) => (version ? `version ${version}` : "the latest version"),
  model: (model) => model,
  robust: (robust) =>
    robust === "0" ? "equal votes" : robust ? `withstanding ${robust} bad passage${robust === "1" ? "" : "s"}` : "",
  anyway: (anyway) => (anyway ? "answering anyway" : ""),
};

/** What goes without saying, unless it is what tells two settings apart. */
const UNSAID: Partial<Record<keyof Settings, string>> = {
  way: "single passages",
  robust: "no certificate",
  anyway: "abstaining where nothing fits",
  model: "the first model",
};

/** The settings in words; with others beside them, only those that differ. */
export function told(settings: Settings, beside?: Settings): string {
  const names = (Object.keys(say) as (keyof Settings)[]).filter((name) => !beside || settings[name] !== beside[name]);
  const parts = names
    .map((name) => (say[name] as (value: Settings[typeof name]) => string)(settings[name]) || (beside && UNSAID[name]))
    .filter(Boolean);
  return parts.join(", ") || "the same settings";
}

export function SettingsLine({ pane }: { pane: Pane }) {
  const open = useSignal(false);
  const id = useId();
  const settings = pane.settings.value;
  return (
    <div class="settings">
      <button
        type="button"
        class="line"
        aria-expanded={open.value}
        aria-controls={id}
        onClick={() => (open.value = !open.value)}
      >
        <span>{told(settings)}</span> <span class="change">{open.value ? "close" : "change"}</span>
      </button>
      <div id={id} class="controls" hidden={!open.value}>
        {open.value && <Controls pane={pane} settings={settings} />}
      </div>
    </div>
  );
}

function Controls({ pane, settings }: { pane: Pane; settings: Settings }) {
  const set = (changed: Partial<Settings>): void => change(pane, changed);
  return (
    <>
      <Slide
        label="Persistence τ"
        value={settings.persistence}
        min={0}
        max={1}
        step={0.1}
        onChange={(persistence) => set({ persistence })}
      >
        0: every word weighs the passages anew (RAG-Token). 1: a passage keeps the trust its words earned
        (RAG-Sequence).
      </Slide>
      <Slide
        label="Passages"
        value={settings.passages}
        min={1}
        max={16}
        step={1}
        onChange={(passages) => set({ passages })}
      >
        How many may speak. Each is a branch of its own.
      </Slide>
      <Slide
        label="Neighbours λ"
        value={settings.lambda_knn}
        min={0}
        max={0.9}
        step={0.05}
        onChange={(lambda_knn) => set({ lambda_knn })}
      >
        The share of the datastore’s next words (kNN-LM), where the book has one.
      </Slide>
      <Choice
        label="Version"
        value={settings.version}
        onChange={(version) => set({ version })}
        options={[
          ["", "the latest"],
          ...books.versions.value.map((v): [string, string] => [
            String(v.number),
            `${v.number}${v.tags.length ? `, ${v.tags.join(", ")}` : ""}`,
          ]),
        ]}
      />
      {books.models.value.length > 1 && (
        <Choice
          label="Model"
          value={settings.model}
          onChange={(model) => set({ model })}
          options={books.models.value.map((name, i): [string, string] => [i ? name : "", name])}
        />
      )}
      <Choice label="Read" value={settings.way} onChange={(way) => set({ way })} options={WAYS} />
      <Choice label="Withstand" value={settings.robust} onChange={(robust) => set({ robust })} options={ROBUST} />
      <label class="tick">
        <input
          type="checkbox"
          checked={settings.anyway}
          onChange={(event) => set({ anyway: event.currentTarget.checked })}
        />{" "}
        answer even where nothing fits
      </label>
    </>
  );
}

interface SlideProps {
  label: string;
  value: number;
  min: number;
  max: number;
  step: number;
  onChange: (value: number) => void;
  children: ComponentChildren;
}

function Slide({ label, value, min, max, step, onChange, children }: SlideProps) {
  const id = useId();
  return (
    <div class="control">
      <label for={id}>{label}</label> <output for={id}>{value}</output>
      <input
        id={id}
        type="range"
        min={min}
        max={max}
        step={step}
        value={value}
        aria-describedby={`${id}-what`}
        onInput={(event) => onChange(Number(event.currentTarget.value))}
      />
      <p id={`${id}-what`}>{children}</p>
    </div>
  );
}

interface ChoiceProps {
  label: string;
  value: string;
  options: [string, string][];
  onChange: (value: string) => void;
}

function Choice({ label, value, options, onChange }: ChoiceProps) {
  const id = useId();
  return (
    <div class="control">
      <label for={id}>{label}</label>
      <select id={id} value={value} onChange={(event) => onChange(event.currentTarget.value)}>
        {options.map(([key, text]) => (
          <option key={key} value={key}>
            {text}
          </option>
        ))}
      </select>
    </div>
  );
}
