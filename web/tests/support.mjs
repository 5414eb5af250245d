// What several tests need: files, a server that answers ranges, a cache in memory.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { readFileSync } from "node:fs";

const root = new URL("../../", import.meta.url);

export function golden(name) {
  return new Uint8Array(readFileSync(new URL(`python_tests/format/golden/${name}`, root)));
}

/** What tests/answers.py wrote: PEEL_ANSWERS, or where `make web-test` puts it. */
export function nativeAnswers() {
  const path = process.env.PEEL_ANSWERS ?? new URL("build/web/answers.json", root);
  return JSON.parse(readFileSync(path, "utf8"));
}

/** The bytes of float32 values, as tests/answers.py writes them. */
export function bits(floats) {
  return Buffer.from(floats.buffer, floats.byteOffset, floats.byteLength).toString("base64");
}

/** Calls f, which must fail, and returns its error. */
export async function failure(f) {
  try {
    await f();
  } catch (error) {
    return error;
  }
  return assert.fail("expected an error");
}

/**
 * A server of one file, which tells what was asked of it. `behave` may change: `tag`, `bytes`;
 * `ranges: false` answers with the whole file; `breakAfter` closes the connection after so many
 * bytes of a body; `redirect` answers with another path first; `status` answers with nothing else.
 */
export async function serve(bytes) {
  const behave = { bytes, tag: '"1"', ranges: true, breakAfter: Infinity, redirect: false };
  const requests = [];
  const server = createServer((request, response) => {
    if (behave.status) return response.writeHead(behave.status).end();
    if (behave.redirect && request.url !== "/moved.peel") {
      return response.writeHead(302, { Location: "/moved.peel" }).end();
    }
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
    const data = behave.bytes;
    if (from === undefined || !behave.ranges) return response.end(data);
    const end = Math.min(Number(to) + 1, data.length);
    requests.push([Number(from), end]);
    const body = data.subarray(Number(from), end);
    response.writeHead(206, {
      "Content-Range": behave.contentRange ?? `bytes ${from}-${end - 1}/${data.length}`,
      "Content-Length": body.length,
      ETag: behave.tag,
    });
    if (body.length <= behave.breakAfter) return response.end(body);
    response.write(body.subarray(0, behave.breakAfter), () => {
      setTimeout(() => response.destroy(), 50); // what was written arrives before the end
    });
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address();
  return {
    url: `http://127.0.0.1:${port}/group.peel`,
    behave,
    requests,
    /** Bytes asked for since this was last asked. */
    takeFetched: () => requests.splice(0).reduce((sum, [from, end]) => sum + end - from, 0),
    close: () =>
      new Promise((done) => {
        server.closeAllConnections();
        server.close(done);
      }),
  };
}

/** A cache in memory, with the methods of `Cache` that are used. */
export class MemoryCache {
  entries = new Map();

  async match(url) {
    const entry = this.entries.get(url);
    return entry && new Response(entry.body.slice(), { headers: entry.headers });
  }

  async put(url, response) {
    const body = new Uint8Array(await response.arrayBuffer());
    this.entries.set(url, { body, headers: [...response.headers] });
  }

  async delete(url) {
    return this.entries.delete(url);
  }
}
