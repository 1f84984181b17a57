/** A document to read as a whole. */

import { useSignal } from "@preact/signals";
import { short } from "../lib/text";
import type { Doc, Source } from "../lib/types";
import { Dialog } from "./dialog";
import { Page, Words } from "./reader";

export function DocumentReader({ doc, onClose }: { doc: Doc; onClose: () => void }) {
  const paged = useSignal(Boolean(doc.pages));
  const start: Source = { id: "", kind: "passage", span: [0, 0], text: "" };
  return (
    <Dialog title={short(doc.name, 120)} wide onClose={onClose}>
      {paged.value ? (
        <Page
          document={doc.name}
          first={1}
          last={doc.pages ?? undefined}
          passage={start}
          places={[]}
          version={undefined}
          onNone={() => (paged.value = false)}
        />
      ) : (
        <Words document={doc.name} passage={start} places={[]} chosen={null} version={undefined} />
      )}
    </Dialog>
  );
}
