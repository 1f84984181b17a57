// A server for working on the page without a model: recorded answers, streamed as `openbook serve` streams them.
//   npm run mock            http://127.0.0.1:8300
// Questions that say "abstain", "fail" or "busy" do; "real" gives a recorded answer of a real model, any other the sample.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname } from "node:path";

const PORT = Number(process.env.PORT ?? 8300);
const STATIC = new URL("../../openbook/serve/static/", import.meta.url);
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'";
const KINDS = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };
const recorded = async (name) => JSON.parse(await readFile(new URL(`recorded/${name}.json`, import.meta.url), "utf8"));
const rest = (ms) => new Promise((done) => setTimeout(done, ms));

const history = [];
let documents = ["notes/karlsholt.md", "notes/denmark.md", "notes/shuttle.md", "archive/bulletins/2019-autumn.pdf"];
let version = 7;
const book = () => ({
  name: "observatory",
  version,
  passages: 4 * documents.length,
  documents: documents.length,
  tags: [],
  updated: "2026-11-20T09:00:00+00:00",
});

async function asked(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts);
}

async function chat(request, response) {
  const body = JSON.parse(await asked(request));
  const question = body.messages.at(-1).content;
  if (question.includes("busy"))
    return fail(response, 429, "The queue of 32 questions is full; wait a moment, then ask again.");
  const answer = await recorded(
    question.includes("abstain") ? "abstain" : question.includes("real") ? "ask" : "sample",
  );
  Object.assign(answer, { question, book: { path: "observatory", version: body.openbook.version ?? version } });
  Object.assign(answer.settings, body.openbook);
  response.writeHead(200, { "content-type": "text/event-stream" });
  const send = (openbook, delta = {}, finish_reason = null) =>
    response.write(
      `data: ${JSON.stringify({ object: "chat.completion.chunk", choices: [{ index: 0, delta, finish_reason }], openbook })}\n\n`,
    );
  for (let i = 1; i <= 3; i++) (await rest(120), response.write(`: passages read ${i}/3\n\n`));
  send({ sources: answer.sources.map(({ bits, necessity, sufficiency, responsibility, ...source }) => source) });
  for (const token of answer.tokens) {
    await rest(Number(process.env.DELAY ?? 40));
    if (question.includes("fail") && token.span[0] > 20) {
      response.end(
        `data: ${JSON.stringify({ error: { message: "The model ran out of memory; ask for fewer passages." } })}\n\n`,
      );
      return;
    }
    send({ token }, { content: token.text });
  }
  history.unshift({ ...answer, id: history.length + 1 });
  send({ answer: history[0] }, {}, "stop");
  response.end("data: [DONE]\n\n");
}

const fail = (response, status, message) =>
  json(response, { error: { message, type: "openbook", code: null } }, status);
function json(response, value, status = 200) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(value));
}

async function add(request, response) {
  const names = [...(await asked(request)).toString("latin1").matchAll(/filename="([^"]*)"/g)].map((found) =>
    Buffer.from(found[1], "latin1").toString(),
  );
  response.writeHead(200, { "content-type": "application/x-ndjson" });
  for (const [i, name] of names.entries()) {
    response.write(
      `${JSON.stringify({ event: "progress", done: i, total: names.length, what: "documents read", document: name })}\n`,
    );
    await rest(300);
  }
  const bad = names.filter((name) => name.endsWith(".exe"));
  documents = [...new Set([...documents, ...names.filter((name) => !bad.includes(name))])];
  for (const name of bad)
    response.write(
      `${JSON.stringify({ event: "error", document: name, message: `${name}: no reader for this kind of file; save it as PDF or text` })}\n`,
    );
  response.end(
    `${JSON.stringify({ event: "done", added: { documents: names.length - bad.length, passages: 4, seconds: 0.4 }, version: ++version })}\n`,
  );
}

const routes = [
  ["POST", /^\/v1\/chat\/completions$/, chat],
  [
    "GET",
    /^\/v1\/models$/,
    (_, response) =>
      json(response, {
        data: [{ id: "openbook:observatory" }, { id: "smollm2-135m-instruct" }, { id: "gemma3-270m" }],
      }),
  ],
  ["GET", /^\/v1\/books$/, (_, response) => json(response, { data: [book()] })],
  [
    "GET",
    /^\/v1\/books\/[^/]+\/versions$/,
    (_, response) =>
      json(response, {
        data: [
          {
            number: version,
            created: "2026-11-22T04:55:33+00:00",
            made: "add",
            documents: documents.length,
            passages: 16,
            tags: [],
            live: true,
          },
          {
            number: 4,
            created: "2026-11-20T10:00:00+00:00",
            made: "forget",
            documents: 3,
            passages: 12,
            tags: ["spring"],
            live: false,
          },
        ],
      }),
  ],
  ["POST", /^\/v1\/books\/[^/]+\/(tags|use)$/, (_, response) => json(response, { version })],
  [
    "GET",
    /^\/v1\/books\/[^/]+\/documents$/,
    (_, response) =>
      json(response, {
        data: documents.map((name) => ({
          name,
          title: name,
          passages: 4,
          kind: extname(name).slice(1),
          pages: name.endsWith("pdf") ? 9 : null,
        })),
      }),
  ],
  ["POST", /^\/v1\/books\/[^/]+\/documents$/, add],
  [
    "DELETE",
    /^\/v1\/books\/[^/]+\/documents\/(.+)$/,
    (_, response, name) => {
      documents = documents.filter((each) => each !== name);
      json(response, { forgotten: name, version: ++version });
    },
  ],
  [
    "GET",
    /^\/v1\/books\/[^/]+\/documents\/(.+)$/,
    async (_, response, name) => {
      const source = (await recorded("sample")).sources.find((each) => each.document === name);
      if (!source) return fail(response, 404, `the book holds no document ${name}`);
      const before = "What stands before this passage in the document. ".repeat(300).slice(0, source.span[0]);
      json(response, {
        name,
        title: name,
        text: `${before}${source.text}\n\n${"What stands after it. ".repeat(900)}`,
        pages: null,
        kind: "md",
      });
    },
  ],
  [
    "GET",
    /^\/v1\/books\/[^/]+\/pages\/\d+$/,
    (_, response) => fail(response, 404, "the original of this document is not kept"),
  ],
  [
    "POST",
    /^\/v1\/books\/[^/]+\/check$/,
    async (_, response) => (await rest(700), json(response, await recorded("check"))),
  ],
  [
    "POST",
    /^\/v1\/books\/[^/]+\/faq$/,
    async (request, response) =>
      json(response, await recorded(JSON.parse(await asked(request)).question.includes("king") ? "faq-no" : "faq")),
  ],
  [
    "POST",
    /^\/v1\/books\/[^/]+\/summarize$/,
    async (_, response) => (await rest(700), json(response, await recorded("summarize"))),
  ],
  [
    "GET",
    /^\/v1\/books\/[^/]+\/graph$/,
    async (_, response) =>
      json(
        response,
        process.env.GRAPH ? JSON.parse(await readFile(process.env.GRAPH, "utf8")) : await recorded("graph"),
      ),
  ],
  [
    "GET",
    /^\/v1\/answers$/,
    (_, response) =>
      json(response, {
        data: history.map(({ id, question, answer, abstained }) => ({
          id,
          question,
          answer,
          book: "observatory",
          when: "2026-11-22T05:00:00+00:00",
          abstained,
        })),
      }),
  ],
  [
    "GET",
    /^\/v1\/answers\/(\d+)$/,
    (_, response, id) => {
      const found = history.find((each) => each.id === Number(id));
      if (found) json(response, found);
      else fail(response, 404, `there is no answer ${id}`);
    },
  ],
];

createServer(async (request, response) => {
  const { pathname } = new URL(request.url, "http://here");
  for (const [method, pattern, handle] of routes) {
    const found = request.method === method && pattern.exec(pathname);
    if (found) return handle(request, response, ...found.slice(1).map(decodeURIComponent));
  }
  const name = pathname === "/" ? "index.html" : pathname.slice(1);
  try {
    const file = await readFile(new URL(name, STATIC));
    response.writeHead(200, {
      "content-type": KINDS[extname(name)] ?? "application/octet-stream",
      "content-security-policy": POLICY,
      "cache-control": "no-cache",
    });
    response.end(file);
  } catch {
    fail(response, 404, `there is no ${pathname}`);
  }
}).listen(PORT, "127.0.0.1", () => console.log(`http://127.0.0.1:${PORT}`));
