/** What a server sends piece by piece: server-sent events and lines of JSON, whatever the pieces are. */

export type Sent = { data: string } | { comment: string };

/** Lines of a stream of bytes; a line may end in LF, CRLF or CR, and be cut anywhere, even in a character. */
export async function* lines(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of chunks) {
    rest += decoder.decode(chunk, { stream: true });
    // A CR at the very end may be half of a CRLF: it waits.
    const parts = rest.split(/\r\n|\n|\r(?!$)/);
    rest = parts.pop() ?? "";
    yield* parts;
  }
  rest += decoder.decode();
  if (rest) yield* rest.replace(/\r$/, "").split("\r");
}

/** Events and comments of `text/event-stream`; of an event only the data, which may be of several lines. */
export async function* events(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Sent> {
  let data: string[] = [];
  for await (const line of lines(chunks)) {
    if (line === "") {
      if (data.length) yield { data: data.join("\n") };
      data = [];
    } else if (line.startsWith(":")) {
      yield { comment: line.slice(1).trim() };
    } else if (line.startsWith("data:")) {
      data.push(line.slice(5).replace(/^ /, ""));
    }
  }
  if (data.length) yield { data: data.join("\n") };
}

/** The bytes of a response, piece by piece. (Not every browser can iterate over the stream itself.) */
export async function* bytes(response: Response): AsyncGenerator<Uint8Array> {
  const reader = response.body?.getReader();
  if (!reader) return;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
