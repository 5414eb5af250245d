// Serves the demo page: node web/demo/serve.mjs FOLDER [PORT], FOLDER as web/demo/prepare.py made it.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";

const TYPES = {
  ".css": "text/css",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".json": "application/json",
  ".wasm": "application/wasm",
};
const DEMO = fileURLToPath(new URL(".", import.meta.url));
const DIST = fileURLToPath(new URL("../dist/", import.meta.url));

/** Answers requests for the page, the package, and the model in `folder`, also for ranges of it. */
export function demoHandler(folder) {
  return async (request, response) => {
    const path = new URL(request.url, "http://localhost").pathname;
    const name = path === "/" ? "index.html" : decodeURIComponent(path.slice(1));
    const inData = name === "model.peel" || name === "catalogue.json";
    const [base, rest] = name.startsWith("dist/") ? [DIST, name.slice(5)] : [DEMO, name];
    const root = resolve(inData ? folder : base) + sep;
    const file = resolve(root, rest);
    const bytes = file.startsWith(root) ? await readFile(file).catch(() => null) : null;
    if (!bytes) return response.writeHead(404).end();
    const headers = {
      "Content-Type": TYPES[extname(file)] ?? "application/octet-stream",
      "Cache-Control": "no-cache",
      "Last-Modified": new Date(0).toUTCString(),
    };
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    if (!range) return response.writeHead(200, headers).end(bytes);
    const [from, end] = [Number(range[1]), Math.min(Number(range[2]) + 1, bytes.length)];
    if (from >= end) return response.writeHead(416).end();
    headers["Content-Range"] = `bytes ${from}-${end - 1}/${bytes.length}`;
    headers["Content-Length"] = end - from;
    return response.writeHead(206, headers).end(bytes.subarray(from, end));
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [folder, port = "8000"] = process.argv.slice(2);
  createServer(demoHandler(folder)).listen(Number(port), "127.0.0.1", () => {
    console.log(`http://127.0.0.1:${port}/`);
  });
}
