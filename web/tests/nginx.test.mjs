// Ranges, redirects and compression as a real server has them. NGINX names its program.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Peel, SourceError } from "../dist/peel.js";
import { failure, golden } from "./support.mjs";

const nginx = process.env.NGINX ?? "/usr/sbin/nginx";
const skip = existsSync(nginx) ? false : `NOT RUN: there is no nginx at ${nginx}`;
if (skip) console.log(skip);

async function freePort() {
  const server = createServer();
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

/** Runs f with the URL of an nginx that compresses everything it may, and stops it. */
async function withNginx(file, f) {
  const folder = mkdtempSync(join(tmpdir(), "peel-nginx-"));
  const port = await freePort();
  mkdirSync(join(folder, "files"));
  writeFileSync(join(folder, "files", "group.peel"), file);
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((kind) => `${kind}_temp_path ${folder}/${kind};`)
    .join(" ");
  writeFileSync(
    join(folder, "nginx.conf"),
    `daemon off; master_process off; pid ${folder}/pid; error_log stderr;
     events {}
     http {
       access_log off; ${temporary}
       default_type application/octet-stream;
       gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;
       server {
         listen 127.0.0.1:${port}; root ${folder}/files;
         location /moved/ { return 302 http://127.0.0.1:${port}/group.peel; }
         location /whole/ { alias ${folder}/files/; max_ranges 0; }
       }
     }`,
  );
  const program = spawn(nginx, ["-p", folder, "-c", join(folder, "nginx.conf")], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  program.stderr.on("data", (text) => (said += text));
  const ended = new Promise((done) => program.once("exit", done));
  try {
    const url = `http://127.0.0.1:${port}`;
    for (let tries = 0; ; ++tries) {
      if (await fetch(`${url}/group.peel`).then((r) => r.arrayBuffer(), () => null)) break;
      assert.ok(tries < 100 && program.exitCode === null, `nginx does not answer: ${said}`);
      await new Promise((done) => setTimeout(done, 50));
    }
    await f(url);
  } finally {
    program.kill();
    await ended;
    rmSync(folder, { recursive: true });
  }
}

test("a real server's ranges, with compression and redirects on", { skip }, async () => {
  const file = golden("v1-planes.peel");
  await withNginx(file, async (url) => {
    const compressed = await fetch(`${url}/group.peel`);
    assert.equal(compressed.headers.get("Content-Encoding"), "gzip"); // or this test says nothing
    await compressed.arrayBuffer();
    const local = await Peel.open(file, { budgetBytes: 1800 });
    for (const path of ["/group.peel", "/moved/group.peel"]) {
      const peel = await Peel.open(url + path, { budgetBytes: 1800 });
      assert.equal(peel.nbytes, local.nbytes);
      const { items } = await peel.score(new Float32Array(20).fill(1));
      assert.deepEqual({ items }, { items: (await local.score(new Float32Array(20).fill(1))).items });
      await peel.resize(null);
      assert.equal(peel.nbytes, (await Peel.open(file)).nbytes);
    }
    const whole = await failure(() => Peel.open(`${url}/whole/group.peel`));
    assert.ok(whole instanceof SourceError);
    assert.match(whole.message, /answers no ranges \(200 to a range request\)/);
    const absent = await failure(() => Peel.open(`${url}/absent.peel`));
    assert.match(absent.message, /the server answers 404/);
  });
});
