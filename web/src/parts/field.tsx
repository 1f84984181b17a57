/** A field for a question or a text, and what came of it. */

import { useSignalEffect } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useId, useRef } from "preact/hooks";
import type { Asking } from "../state/asking";

interface FieldProps<T> {
  asking: Asking<T>;
  label: string;
  placeholder: string;
  act: string;
  tall?: boolean; // for a text of several lines: Enter makes a line, Ctrl+Enter sends
  most?: number;
}

export function Field<T>({ asking, label, placeholder, act, tall, most = 8000 }: FieldProps<T>) {
  const id = useId();
  const field = useRef<HTMLTextAreaElement>(null);
  const busy = asking.outcome.value.state === "waiting";
  const grow = (): void => {
    if (!field.current) return;
    field.current.style.height = "auto";
    field.current.style.height = `${field.current.scrollHeight}px`;
  };
  useSignalEffect(() => {
    if (field.current && field.current.value !== asking.text.value) field.current.value = asking.text.value;
    grow();
  });
  const send = (): void => {
    const text = field.current?.value.trim();
    if (text) void asking.ask(text);
    else field.current?.focus();
  };
  return (
    <form class={tall ? "box tall" : "box"} onSubmit={(event) => (event.preventDefault(), send())}>
      <label class="hidden" for={id}>
        {label}
      </label>
      <textarea
        ref={field}
        id={id}
        rows={tall ? 3 : 1}
        dir="auto"
        placeholder={placeholder}
        maxLength={most}
        onInput={grow}
        data-ask
        onKeyDown={(event) => {
          if (event.key !== "Enter" || event.isComposing || (tall ? !(event.ctrlKey || event.metaKey) : event.shiftKey))
            return;
          event.preventDefault();
          send();
        }}
      />
      {busy ? (
        <button key="stop" type="button" class="act" onClick={asking.stop}>
          Stop
        </button>
      ) : (
        <button key="ask" type="submit" class="act">
          {act}
        </button>
      )}
    </form>
  );
}

export function Outcome<T>({
  asking,
  waiting = "looking…",
  told,
  children,
}: {
  asking: Asking<T>;
  waiting?: string;
  told: (value: T) => string; // for screen readers: all of it would be said again at each word that is looked at
  children: (value: T) => ComponentChildren;
}) {
  const outcome = asking.outcome.value;
  return (
    <div class="outcome" aria-busy={outcome.state === "waiting"}>
      <p class="hidden" aria-live="polite">
        {outcome.state === "waiting" ? waiting : outcome.state === "done" ? told(outcome.value) : ""}
      </p>
      {outcome.state === "waiting" && <p class="state">{waiting}</p>}
      {outcome.state === "failed" && (
        <p class="state fault" role="alert">
          {outcome.error}
        </p>
      )}
      {outcome.state === "done" && children(outcome.value)}
    </div>
  );
}
