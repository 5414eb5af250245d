// Files on a server: ranges, the cache, no network, torn downloads.
import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import { ArgumentError, BudgetError, FormatError, Peel, SourceError } from "../dist/peel.js";
import { MemoryCache, failure, golden, serve } from "./support.mjs";

const whole = golden("v1-planes.peel"); // its ids are text
const ITEMS = (await (await Peel.open(whole)).score(new Float32Array(20), { n: 5 })).items;
const blocksEnd = 64 * new DataView(whole.buffer, whole.byteOffset).getUint32(44, true);
const BUDGET = 1800;

let server = await serve(whole);
let cache;

beforeEach(async () => {
  await server.close();
  server = await serve(whole);
  cache = new MemoryCache();
});
after(() => server.close());

async function answersOf(peel) {
  return peel.recommend({ history: ITEMS.slice(0, 2), n: 7 });
}

test("only the budget is fetched, and growing fetches only what is missing", async () => {
  const peel = await Peel.open(server.url, { budgetBytes: BUDGET });
  assert.equal(server.takeFetched(), BUDGET);
  const held = peel.nbytes;
  const local = await Peel.open(whole, { budgetBytes: BUDGET });
  assert.equal(held, local.nbytes);
  assert.deepEqual(await answersOf(peel), await answersOf(local));
  assert.equal(server.takeFetched(), whole.length - blocksEnd); // ids, when they are first needed
  await peel.resize(3000);
  await local.resize(3000);
  assert.ok(server.takeFetched() <= 3000 - (held - 16 * 20 - 4 * 20) + 64);
  assert.deepEqual(await answersOf(peel), await answersOf(local));
  await peel.resize(BUDGET);
  assert.equal(peel.nbytes, held);
  assert.equal(server.takeFetched(), 0);
});

test("without ids, what lies behind the blocks is never fetched", async () => {
  const peel = await Peel.open(server.url, { itemIds: false });
  const { items } = await peel.recommend({ history: [3, 14], n: 3 });
  assert.ok(items.every((item) => Number.isInteger(item) && item !== 3 && item !== 14));
  assert.equal(server.takeFetched(), blocksEnd);
});

test("a second visit fetches the header alone, and a third needs no network", async () => {
  const first = await Peel.open(server.url, { budgetBytes: BUDGET, cache });
  const answers = await answersOf(first);
  server.takeFetched();
  const second = await Peel.open(server.url, { budgetBytes: BUDGET, cache });
  assert.deepEqual(await answersOf(second), answers);
  assert.equal(server.takeFetched(), 64);
  assert.equal(second.failure, null);
  const { url } = server;
  await server.close();
  const third = await Peel.open(url, { budgetBytes: BUDGET, cache });
  assert.deepEqual(await answersOf(third), answers);
  assert.ok(third.failure instanceof SourceError);
  await third.resize(1000);
  const held = third.nbytes;
  const error = await failure(() => third.resize(null));
  assert.ok(error instanceof SourceError, error.stack);
  assert.equal(third.nbytes, held); // what was held stays
  await third.resize(BUDGET);
  assert.deepEqual(await answersOf(third), answers);
  const more = await Peel.open(url, { cache });
  assert.ok(more.nbytes <= BUDGET && more.failure instanceof SourceError);
  assert.ok((await failure(() => Peel.open(url))) instanceof SourceError);
});

test("growing again after shrinking fetches nothing twice", async () => {
  const peel = await Peel.open(server.url, { cache });
  const answers = await answersOf(peel);
  await peel.resize(BUDGET);
  server.takeFetched();
  await peel.resize(null);
  assert.equal(server.takeFetched(), 0);
  assert.deepEqual(await answersOf(peel), answers);
});

test("another file on the server replaces the one in the cache", async () => {
  await Peel.open(server.url, { cache });
  server.behave.bytes = golden("v1-prior.peel");
  server.behave.tag = '"2"';
  const other = await Peel.open(server.url, { cache });
  const local = await Peel.open(golden("v1-prior.peel"));
  assert.equal(other.nbytes, local.nbytes);
  assert.deepEqual(await other.recommend({ history: [3] }), await local.recommend({ history: [3] }));
  assert.equal(cache.entries.size, 1);
});

test("a file that changes while it is open is an error, not a mixture", async () => {
  const peel = await Peel.open(server.url, { budgetBytes: BUDGET, itemIds: false });
  server.behave.tag = '"2"';
  const error = await failure(() => peel.resize(null));
  assert.ok(error instanceof SourceError);
  assert.match(error.message, /another file than the one opened/);
});

test("what is damaged in the cache is fetched again", async () => {
  const answers = await answersOf(await Peel.open(server.url, { cache }));
  const [entry] = cache.entries.values();
  entry.body[200] ^= 1;
  const peel = await Peel.open(server.url, { cache });
  assert.deepEqual(await answersOf(peel), answers);
  entry.body[200] ^= 1;
  server.takeFetched();
  await Peel.open(server.url, { cache });
  assert.equal(server.takeFetched(), 64);
});

test("a torn download is kept, is a smaller model, and goes on where it broke", async () => {
  const { behave, url } = server;
  await Peel.open(url, { budgetBytes: 900, cache }); // the ids are there
  behave.breakAfter = 1000;
  const torn = await Peel.open(url, { cache });
  assert.ok(torn.failure instanceof SourceError);
  const there = [...cache.entries.values()][0].headers.find(([name]) => name === "peel-start")[1];
  assert.equal(Number(there), 1900);
  assert.ok(torn.nbytes <= 1900);
  const local = await Peel.open(whole, { budgetBytes: 1900 });
  assert.deepEqual(await answersOf(torn), await answersOf(local));
  behave.breakAfter = Infinity;
  server.takeFetched();
  await torn.resize(null);
  assert.equal(server.takeFetched(), blocksEnd - 1900);
  assert.equal(torn.failure, null);
  const full = await Peel.open(whole);
  assert.deepEqual(await answersOf(torn), await answersOf(full));
});

test("a torn download without a cache, or of too little, is an error", async () => {
  server.behave.breakAfter = 100;
  for (const options of [{}, { cache }]) {
    const error = await failure(() => Peel.open(server.url, options));
    assert.ok(error instanceof SourceError && !(error instanceof BudgetError), error.stack);
    assert.match(error.message, /cannot be read/);
  }
});

test("servers that do not answer as they should are named", async () => {
  const { behave, url } = server;
  const cases = [
    [{ ranges: false }, /answers no ranges \(200 to a range request\)/],
    [{ status: 404 }, /the server answers 404/],
    [{ status: 503 }, /the server answers 503/],
    [{ contentRange: "bytes 7-70/4928" }, /Content-Range 'bytes 7-70\/4928' does not say/],
    [{ contentRange: "bytes 0-63/*" }, /Content-Range 'bytes 0-63\/\*' does not say/],
    [{ bytes: new Uint8Array(0) }, /Content-Range/],
  ];
  for (const [change, message] of cases) {
    const before = { ...behave };
    Object.assign(behave, { contentRange: undefined, status: undefined }, change);
    const error = await failure(() => Peel.open(url));
    assert.ok(error instanceof SourceError, error.stack);
    assert.match(error.message, message);
    Object.assign(behave, { contentRange: undefined, status: undefined }, before);
  }
  behave.bytes = new TextEncoder().encode("<!doctype html>" + " ".repeat(100));
  const error = await failure(() => Peel.open(url));
  assert.ok(error instanceof FormatError);
  assert.match(error.message, /does not begin with 'PEEL'/);
});

test("redirects are followed", async () => {
  server.behave.redirect = true;
  const peel = await Peel.open(server.url, { budgetBytes: BUDGET });
  assert.deepEqual(
    await answersOf(peel),
    await answersOf(await Peel.open(whole, { budgetBytes: BUDGET })),
  );
});

test("a budget too small names the minimum, which is enough", async () => {
  const error = await failure(() => Peel.open(server.url, { budgetBytes: 100, cache }));
  assert.ok(error instanceof BudgetError, error.stack);
  const least = await Peel.open(server.url, { budgetBytes: error.minimumBytes });
  assert.equal(least.nbytes, error.minimumBytes);
});

test("a signal ends opening with its reason", async () => {
  const controller = new AbortController();
  controller.abort(new Error("gone away"));
  const open = Peel.open(server.url, { signal: controller.signal });
  assert.equal((await failure(() => open)).message, "gone away");
});

test("a cache that fails is an error of the source, and a name needs Cache Storage", async () => {
  const broken = new MemoryCache();
  broken.put = async () => {
    throw new Error("quota exceeded");
  };
  const error = await failure(() => Peel.open(server.url, { cache: broken }));
  assert.ok(error instanceof SourceError);
  assert.equal(error.message, "the cache fails: quota exceeded");
  const named = await failure(() => Peel.open(server.url, { cache: "peel" }));
  assert.ok(named instanceof ArgumentError);
  const secret = new URL(server.url);
  secret.password = "hunter2";
  const told = await failure(() => Peel.open(secret));
  assert.ok(told instanceof ArgumentError && !told.message.includes("hunter2"));
});
