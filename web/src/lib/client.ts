/** The server's HTTP interface, and its errors as one line that says what to do. */

import { bytes, events, lines } from "./stream";

export class Trouble extends Error {
  constructor(
    message: string,
    readonly status = 0,
  ) {
    super(message);
  }
}

const KEY = "openbook.key";
let key = sessionStorage.getItem(KEY) ?? "";

/** The key that the server asks for where it is not on loopback; kept until this tab is closed. */
export function useKey(value: string): void {
  key = value.trim();
  sessionStorage.setItem(KEY, key);
}

export async function call(path: string, init: RequestInit & { json?: unknown } = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key) headers.set("authorization", `Bearer ${key}`);
  if (init.json !== undefined) headers.set("content-type", "application/json");
  const body = init.json === undefined ? init.body : JSON.stringify(init.json);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, body: body ?? null, referrerPolicy: "no-referrer" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Trouble(
      "The server does not answer. Is `openbook serve` still running? Start it again, then try once more.",
    );
  }
  if (!response.ok) throw new Trouble(await told(response), response.status);
  return response;
}

/** The server's own words, else what its status means. */
async function told(response: Response): Promise<string> {
  const text = await response.text().catch(() => "");
  try {
    const said = JSON.parse(text) as { error?: { message?: unknown }; detail?: unknown };
    if (typeof said.error?.message === "string") return said.error.message;
    if (typeof said.detail === "string") return said.detail;
  } catch {
    // not JSON: a proxy's page, say
  }
  return HELP[response.status] ?? `The server answered with status ${response.status}.`;
}

const HELP: Record<number, string> = {
  401: "This server wants a key.",
  404: "The server has nothing under that name.",
  413: "That is larger than the server takes. Send it in parts.",
  429: "The server is busy with other questions. Wait a moment, then ask again.",
  500: "Something broke in the server; its terminal says what.",
};

export const get = async <T>(path: string, signal?: AbortSignal): Promise<T> =>
  (await call(path, signal ? { signal } : {})).json() as Promise<T>;

export const post = async <T>(path: string, json: unknown, signal?: AbortSignal): Promise<T> =>
  (await call(path, { method: "POST", json, ...(signal ? { signal } : {}) })).json() as Promise<T>;

/** A part of a path: names of documents may hold anything, but slashes between folders stay. */
export const named = (name: string): string => name.split("/").map(encodeURIComponent).join("/");

/** One chunk of a streamed answer, and comments while it waits. */
export async function* streamed(
  path: string,
  json: unknown,
  signal: AbortSignal,
): AsyncGenerator<{ comment: string } | { chunk: unknown }> {
  const response = await call(path, { method: "POST", json, signal });
  for await (const sent of events(bytes(response))) {
    if ("comment" in sent) yield sent;
    else if (sent.data === "[DONE]") return;
    else yield { chunk: JSON.parse(sent.data) as unknown };
  }
}

/** A response of one JSON object a line. */
export async function* objects<T>(response: Response): AsyncGenerator<T> {
  for await (const line of lines(bytes(response))) if (line.trim()) yield JSON.parse(line) as T;
}

export const message = (error: unknown): string => (error instanceof Error ? error.message : String(error));
export const aborted = (error: unknown): boolean => error instanceof DOMException && error.name === "AbortError";
