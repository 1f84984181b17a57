/** Forgetting a document, asked for twice: it cannot be undone. */

import { useSignal } from "@preact/signals";
import { call, message, named } from "../lib/client";
import { short } from "../lib/text";
import type { Doc } from "../lib/types";
import * as books from "../state/books";
import { Dialog } from "./dialog";

export function Forget({ doc, onClose }: { doc: Doc; onClose: () => void }) {
  const busy = useSignal(false);
  const fault = useSignal("");
  const held = useSignal(false); // by a version that has a name
  const forget = async (tagged: boolean): Promise<void> => {
    busy.value = true;
    fault.value = "";
    try {
      await call(books.path(`/documents/${named(doc.name)}${tagged ? "?tags=true" : ""}`), { method: "DELETE" });
      onClose();
      await books.refresh();
    } catch (error) {
      fault.value = message(error);
      held.value = fault.value.includes("held by the tagged version");
      busy.value = false;
    }
  };
  return (
    <Dialog title={`Forget ${short(doc.name, 90)}?`} onClose={onClose}>
      <p>
        Its text leaves the book, its index, its older versions and the answers that quote it, and no answer can rest on
        it any more. This cannot be undone; a file of your own outside the book stays where it is.
      </p>
      {fault.value && (
        <p class="state fault" role="alert">
          {fault.value}
        </p>
      )}
      <p class="acts">
        <button type="button" class="act" disabled={busy.value} onClick={() => void forget(held.value)}>
          {busy.value ? "forgetting…" : held.value ? "Forget it, named versions too" : "Forget it"}
        </button>
        <button type="button" class="act second" onClick={onClose}>
          Keep it
        </button>
      </p>
    </Dialog>
  );
}
