// Bundles of many users' files: found, fetched, kept, and refused where they are damaged.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { after, beforeEach, test } from "node:test";
import {
  ArgumentError,
  BudgetError,
  FormatError,
  NoUserError,
  Peel,
  SourceError,
  Status,
} from "../dist/peel.js";
import { MemoryCache, failure, golden, serve } from "./support.mjs";

const bundle = golden("v1-bundle.peelb");
const users = { 7: "v1-prior", "ünal": "v1-columns", "-3": "v1-planes" };
const view = new DataView(bundle.buffer, bundle.byteOffset);
const filesBegin = 64 + 192; // one page of three entries

/** Where a user's file lies: golden files are told by their bytes. */
function place(user) {
  const whole = golden(`${users[user]}.peel`);
  const offset = Buffer.from(bundle).indexOf(Buffer.from(whole));
  const end = 64 * view.getUint32(offset + 44, true);
  return { whole, offset, end };
}

/** What decides which page of the index a user is in. */
function firstOfKey(user) {
  return createHash("sha256").update(String(user)).digest()[0];
}

async function answersOf(peel) {
  const user = new Float32Array(peel.embeddingDim).map((_, i) => Math.sin(i + 1));
  return [peel.nbytes, await peel.recommend({ user, rotated: true, n: 9 })];
}

let server = await serve(bundle);

beforeEach(async () => {
  await server.close();
  server = await serve(bundle);
});
after(() => server.close());

test("each user has the answers of its own file, under every budget", async () => {
  for (const user of Object.keys(users)) {
    const { whole } = place(user);
    for (const budgetBytes of [null, 1800]) {
      const wanted = await answersOf(await Peel.open(whole, { budgetBytes }));
      for (const file of [bundle, bundle.slice().buffer, server.url]) {
        const peel = await Peel.open(file, { budgetBytes, user });
        assert.deepEqual(await answersOf(peel), wanted);
        await peel.resize(1500);
        await peel.resize(null);
        assert.deepEqual(await answersOf(peel), await answersOf(await Peel.open(whole)));
      }
    }
  }
  const peel = await Peel.open(bundle, { user: -3 }); // an integer is its decimal text
  assert.equal(peel.nbytes, (await Peel.open(bundle, { user: "-3" })).nbytes);
});

test("a user takes two requests: the index, and what the budget has room for", async () => {
  const { offset, end } = place("7");
  for (const budgetBytes of [null, 1000]) {
    server.behave.tag = ""; // so that the second time is as the first
    await Peel.open(server.url, { user: 7, budgetBytes, itemIds: false });
    const asked = server.requests.splice(0);
    assert.deepEqual(asked, [
      [0, 8192],
      [offset, offset + (budgetBytes ?? end)],
    ]);
  }
});

test("of a large bundle the header comes once, and then a user takes two requests", async () => {
  const large = new Uint8Array(readFileSync(new URL("../../build/web/large.peelb", import.meta.url)));
  const wanted = await answersOf(await Peel.open(golden("v1-prior.peel")));
  server.behave.bytes = large;
  const ask = async (user) => {
    assert.deepEqual(await answersOf(await Peel.open(server.url, { user, itemIds: false })), wanted);
    return server.requests.splice(0);
  };
  const users = Array.from({ length: 300 }, (_, i) => i).filter((user) => firstOfKey(user) >= 200);
  assert.equal((await ask(users[0])).length, 3);
  for (const user of users.slice(1, 4)) {
    const [page, file, ...more] = await ask(user);
    assert.ok(page[0] > 8192 && page[1] - page[0] < 5000 && file[0] > page[1]);
    assert.deepEqual(more, []);
  }
  // Another bundle in its place is told, and the user found anew; nobody is missed or made up.
  server.behave.tag = '"2"';
  assert.equal((await ask(users[0])).length, 4);
  server.behave.tag = '"3"';
  server.behave.bytes = bundle;
  const { whole } = place("7");
  const other = await answersOf(await Peel.open(whole));
  assert.deepEqual(await answersOf(await Peel.open(server.url, { user: 7 })), other);
  assert.ok((await failure(() => Peel.open(server.url, { user: 8 }))) instanceof NoUserError);
});

test("a second visit fetches no block twice, and a third needs no network", async () => {
  const cache = new MemoryCache();
  const user = "ünal";
  const { offset } = place(user);
  const answers = await answersOf(await Peel.open(server.url, { user, cache }));
  await Peel.open(server.url, { user: -3, cache });
  assert.equal(cache.entries.size, 2);
  server.takeFetched();
  assert.deepEqual(await answersOf(await Peel.open(server.url, { user, cache })), answers);
  assert.deepEqual(server.requests.splice(0), [[offset, offset + 64]]);
  server.behave.tag = '"2"'; // perhaps another bundle, by what can be told
  assert.deepEqual(await answersOf(await Peel.open(server.url, { user, cache })), answers);
  const { url } = server;
  await server.close();
  const offline = await Peel.open(url, { user, cache, budgetBytes: 2000 });
  assert.ok(offline.failure instanceof SourceError);
  await offline.resize(null);
  assert.deepEqual(await answersOf(offline), answers);
  assert.ok((await failure(() => Peel.open(url, { user: 7, cache }))) instanceof SourceError);
});

test("mistakes are named", async () => {
  const fails = async (kind, message, file, options) => {
    const error = await failure(() => Peel.open(file, options));
    assert.ok(error instanceof kind, error.stack);
    assert.match(error.message, message);
  };
  for (const file of [bundle, server.url]) {
    await fails(NoUserError, /the bundle has no file of user 'nobody'/, file, { user: "nobody" });
    await fails(FormatError, /but a bundle of many: open it with the id of a user/, file, {});
    await fails(BudgetError, /needs at least/, file, { user: 7, budgetBytes: 10 });
    for (const user of ["", "a\0b", "\ud800", 1.5, true, {}]) {
      await fails(ArgumentError, /user must be an integer, or text/, file, { user });
    }
  }
  const error = await failure(() => Peel.open(bundle, { user: 8 }));
  assert.equal(error.status, Status.NO_USER);
  await fails(FormatError, /not a bundle of users' files/, golden("v1-planes.peel"), { user: 7 });
});

test("a bundle that changes meanwhile is an error, not a mixture", async () => {
  const peel = await Peel.open(server.url, { user: 7, budgetBytes: 1000, itemIds: false });
  server.behave.tag = '"2"';
  const error = await failure(() => peel.resize(null));
  assert.match(error.message, /another file than the one opened/);
});

test("damage in what leads to a user, and files cut short, are refused", async () => {
  const { offset, end } = place("7");
  for (let at = 0; at < filesBegin; ++at) {
    const bytes = bundle.slice();
    bytes[at] ^= 1 << at % 8;
    const error = await failure(() => Peel.open(bytes, { user: 7 }));
    assert.ok(error instanceof FormatError, `byte ${at}: ${error.stack}`);
  }
  for (const at of [offset + 3, offset + 44, offset + 50, offset + 60]) {
    server.behave.bytes = bundle.slice();
    server.behave.bytes[at] ^= 1;
    for (const file of [server.behave.bytes, server.url]) {
      const error = await failure(() => Peel.open(file, { user: 7 }));
      assert.ok(error instanceof FormatError, `byte ${at}: ${error.stack}`);
    }
  }
  for (let size = 0; size < offset + end; size += 37) {
    for (const file of [bundle.subarray(0, size), size > 0 && server.url]) {
      if (!file) continue;
      server.behave.bytes = bundle.subarray(0, size);
      try {
        const peel = await Peel.open(file, { user: 7, itemIds: false });
        assert.ok(size > offset + 128 && peel.numBlocks > 0);
      } catch (error) {
        assert.ok(error instanceof FormatError, `${size} bytes: ${error.stack}`);
      }
    }
  }
});
