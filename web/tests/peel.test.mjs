// What a program meets: items, mistakes, closing, workers, sizes.
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import {
  ArgumentError,
  BudgetError,
  ClosedError,
  FormatError,
  NotHeldError,
  Peel,
  PeelError,
  Status,
} from "../dist/peel.js";
import { failure, golden } from "./support.mjs";

const rows = golden("v1-prior.peel"); // no ids: items are rows
const named = golden("v1-planes.peel");
const rotated = golden("v1-rotated.peel");

/** A value as errors show it. */
function as(value) {
  if (typeof value === "bigint") return `${value}n`;
  return typeof value === "string" ? `'${value}'` : Array.isArray(value) ? `[${value}]` : String(value);
}

/** Matches a message that ends in this text. */
function literally(text) {
  return new RegExp(`${text.replace(/[[\]().*+?^$|]/g, "\\$&")}$`);
}

async function assertFails(kind, message, f) {
  const error = await failure(f);
  assert.ok(error instanceof kind && error instanceof PeelError, error.stack);
  assert.match(error.message, message);
  assert.equal(error.name, kind.name);
}

test("mistakes are named with what was expected", async () => {
  const peel = await Peel.open(rows);
  const bad = (message, f) => assertFails(ArgumentError, message, f);
  await bad(/history or user must be given, got neither/, () => peel.recommend({}));
  await bad(/history\[1\] is 100, expected an id in \[0, 100\)/, () =>
    peel.recommend({ history: [3, 100] }),
  );
  await bad(/history\[0\] is '3', expected/, () => peel.recommend({ history: ["3"] }));
  await bad(/exclude\[0\] is 1\.5, expected/, () => peel.score(new Array(20).fill(1), { exclude: [1.5] }));
  await bad(/history must be an array of items, got 3/, () => peel.foldIn(3));
  await bad(/history must be an array of items, got '3'/, () => peel.foldIn("3"));
  await bad(/items\[0\] is 3n, expected/, () => peel.scoreItems([3n], { history: [3] }));
  for (const value of [0, 2.5, NaN, "5", null, 5n, [5]]) {
    await bad(literally(`n must be an integer of at least 1, got ${as(value)}`), () =>
      peel.recommend({ history: [3], n: value }),
    );
  }
  await bad(/user must have 20 values, got 19/, () => peel.score(new Float32Array(19)));
  for (const value of [NaN, 1e300, -Infinity, "1", null, undefined, true, 3n]) {
    const expected = `user[4] must be a number that is finite as float32, got ${as(value)}`;
    await bad(literally(expected), () => peel.score([1, 2, 3, 4, value, ...Array(15).fill(0)]));
  }
  await bad(/user must have 20 values, got 'twenty letters long.'/, () =>
    peel.score("twenty letters long."),
  );
  await bad(/knownCount must be an integer of at least 0, got -1/, () =>
    peel.continueVector(new Float32Array(20), -1, [3]),
  );
  for (const value of [1e3 + 0.5, NaN, Infinity, "64KiB", "64", 64n, true]) {
    const expected = literally(`budgetBytes must be an integer or null, got ${as(value)}`);
    await bad(expected, () => peel.resize(value));
    await bad(expected, () => Peel.open(rows, { budgetBytes: value }));
  }
  await bad(/cache is for files on a server/, () => Peel.open(rows, { cache: "peel" }));
  await bad(/cache must be a name, or an object with match, put and delete, got 5/, () =>
    Peel.open("http://localhost/group.peel", { cache: 5 }),
  );
  await bad(/file must be a URL or bytes, got undefined/, () => Peel.open(undefined));
  await bad(/file must be a URL, got 'group.peel'/, () => Peel.open("group.peel"));
  await bad(/rotated must be true or false, got 'no'/, () =>
    peel.recommend({ user: new Float32Array(20), rotated: "no" }),
  );
  await bad(/shipped.items must name an item once, got 5 twice/, () =>
    peel.recommend({ history: [3], shipped: { items: [4, 5, 6, 5], scores: [1, 2, 3, 4] } }),
  );
  await bad(/shipped.scores must have 1 values, got 2/, () =>
    peel.recommend({ history: [3], shipped: { items: [5], scores: [1, 2] } }),
  );
});

test("a budget is shown as it was given, however small or large", async () => {
  const peel = await Peel.open(rows);
  for (const budgetBytes of [10, 0, -5, -(2 ** 70)]) {
    const expected = literally(`budgetBytes is ${budgetBytes}, but this file needs at least 468 bytes`);
    await assertFails(BudgetError, expected, () => Peel.open(rows, { budgetBytes }));
    await assertFails(BudgetError, expected, () => peel.resize(budgetBytes));
  }
  for (const budgetBytes of [2 ** 53, 2 ** 64, 1e300]) {
    assert.equal((await Peel.open(rows, { budgetBytes })).nbytes, peel.nbytes);
  }
});

test("a count of known items has no largest", async () => {
  const peel = await Peel.open(rows);
  const user = await peel.foldIn([3]);
  const many = await peel.continueVector(user, 2 ** 32, [5, 6]);
  many.forEach((value, i) => assert.ok(Math.abs(value - user[i]) < 1e-6));
});

test("items are what the file's ids are", async () => {
  const peel = await Peel.open(named);
  const { items } = await peel.score(new Float32Array(20), { n: 3 });
  assert.ok(items.every((item) => typeof item === "string"));
  await assertFails(ArgumentError, /\[0\] is not known: ids of this file are text, got 3/, () =>
    peel.foldIn([3]),
  );
  await assertFails(ArgumentError, /item\[0\] is not known: .* got 'no such item'/, () =>
    peel.similar("no such item"),
  );
  const plain = await Peel.open(named, { itemIds: false });
  assert.ok((await plain.score(new Float32Array(20), { n: 3 })).items.every(Number.isInteger));
});

test("integer ids are numbers, and text beyond those that are exact", async () => {
  const ids = Array.from({ length: 100 }, (_, i) => String(7 * i - 50));
  ids[99] = "9007199254740993";
  const peel = await Peel.open(withItemIds(rows, ids));
  const { items } = await peel.score(new Float32Array(20), { n: 100 });
  assert.deepEqual(
    new Set(items),
    new Set(ids.map((id) => (Number.isSafeInteger(Number(id)) ? Number(id) : id))),
  );
  const scores = await peel.scoreItems([-50, "9007199254740993", 20], { history: [20] });
  const plain = await Peel.open(rows);
  assert.deepEqual(scores, await plain.scoreItems([0, 99, 10], { history: [10] }));
  for (const item of ["20", 9007199254740992, 21, "x"]) {
    await assertFails(ArgumentError, /is not known: ids of this file are integers/, () =>
      peel.similar(item),
    );
  }
});

test("what is not held, not known or not said is told apart", async () => {
  const whole = await Peel.open(rows, { itemIds: false });
  const small = await Peel.open(rows, { budgetBytes: 600 });
  const few = new Set((await small.score(new Float32Array(20), { n: 100 })).items);
  const absent = [...Array(100).keys()].find((row) => !few.has(row));
  await assertFails(NotHeldError, new RegExp(`item ${absent} is not held`), () =>
    small.similar(absent),
  );
  assert.equal((await failure(() => small.similar(absent))).status, Status.NOT_HELD);
  const ids = Array.from({ length: 100 }, (_, i) => `item ${7 * i}`);
  const byName = await Peel.open(withItemIds(rows, ids, { integers: false }));
  await byName.resize(600);
  await assertFails(NotHeldError, new RegExp(`item '${ids[absent]}' is not held: a larger`), () =>
    byName.similar(ids[absent]),
  );
  assert.deepEqual(await small.scoreItems([absent], { history: [[...few][0]] }), Float32Array.of(0));
  assert.ok((await whole.similar(absent)).items.length > 0);
  const user = new Float32Array(20).fill(0.1);
  const turned = await Peel.open(rotated);
  await assertFails(ArgumentError, /rotated must be given with user/, () => turned.recommend({ user }));
  const spaces = [
    await turned.recommend({ user, rotated: false }),
    await turned.recommend({ user: await turned.rotate(user), rotated: true }),
  ];
  assert.deepEqual(spaces[0], spaces[1]);
});

test("where nothing is known of the user the answer says so", async () => {
  const blocks = 64 * new DataView(rows.buffer, rows.byteOffset).getUint32(44, true);
  const peel = await Peel.open(rows.slice(0, blocks));
  const unknown = await peel.recommend({ history: [] });
  assert.equal(unknown.userKnown, false);
  assert.equal(unknown.items.length, 20);
  assert.equal((await peel.recommend({ history: [3] })).userKnown, true);
});

test("what is closed stays closed", async () => {
  const peel = await Peel.open(rows);
  const resizing = peel.resize(1000);
  peel.close();
  peel.close();
  await assertFails(ClosedError, /has been closed/, () => resizing);
  await assertFails(ClosedError, /has been closed/, () => peel.recommend({ history: [3] }));
  assert.throws(() => peel.nbytes, ClosedError);
});

test("resizes come one after another, and answers between them are whole", async () => {
  const peel = await Peel.open(rows);
  const budgets = [1000, null, 700, 2000, 1500];
  const legal = new Set();
  for (const budgetBytes of budgets) {
    const { items, scores } = await (await Peel.open(rows, { budgetBytes })).recommend({ history: [3] });
    legal.add(JSON.stringify([items, [...scores]]));
  }
  const resized = budgets.map((budget) => peel.resize(budget));
  const answers = await Promise.all(budgets.map(() => peel.recommend({ history: [3] })));
  for (const { items, scores } of answers) assert.ok(legal.has(JSON.stringify([items, [...scores]])));
  await Promise.all(resized);
  assert.ok(peel.nbytes <= 1500);
  const before = peel.nbytes;
  await assertFails(BudgetError, /needs at least/, () => peel.resize(10));
  assert.equal(peel.nbytes, before);
});

test("it works in a worker", async () => {
  const code = `
    import { parentPort, workerData } from "node:worker_threads";
    const { Peel } = await import(workerData.module);
    const peel = await Peel.open(workerData.file);
    parentPort.postMessage(await peel.recommend({ history: [3, 14], n: 5 }));
  `;
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), {
    workerData: { module: new URL("../dist/peel.js", import.meta.url).href, file: rows },
  });
  const answer = await new Promise((done, fail) => worker.once("message", done).once("error", fail));
  assert.deepEqual(answer, await (await Peel.open(rows)).recommend({ history: [3, 14], n: 5 }));
});

test("text that is none, and bytes at any address", async () => {
  const ids = Array.from({ length: 100 }, (_, i) => `item ${i}`);
  const broken = withItemIds(rows, ids, { integers: false, spoil: (text) => text.fill(0xff, 0, 4) });
  const peel = await Peel.open(broken);
  await assertFails(FormatError, /is no text/, () => peel.score(new Float32Array(20), { n: 100 }));
  const moved = new Uint8Array(rows.length + 3).subarray(3);
  moved.set(rows);
  assert.equal((await Peel.open(moved)).nbytes, (await Peel.open(rows)).nbytes);
});

test("a table beyond all memory is an error with its status", async () => {
  const header = golden("v1-planes.peel").slice(0, 64);
  const view = new DataView(header.buffer);
  view.setUint32(44, 2 ** 27, true); // the end of the blocks: 8 GiB
  view.setUint32(60, crc32(header.subarray(0, 60), 0), true);
  const read = (offset, into) => (into.set(header.subarray(0, into.length)), offset === 0);
  const built = await build({
    entryPoints: [fileURLToPath(new URL("../src/core.ts", import.meta.url))],
    bundle: true,
    format: "esm",
    write: false,
  });
  const source = encodeURIComponent(built.outputFiles[0].text);
  const { Core } = await import(`data:text/javascript,${source}`);
  const module = await WebAssembly.compile(
    readFileSync(new URL("../dist/peel.wasm", import.meta.url)),
  );
  const error = await failure(() => new Core(module, read, 2 ** 33, null));
  assert.equal(error.status, Status.MEMORY, error.stack);
  assert.equal(error.message, "out of memory");
});

test("the version is that of the C interface", () => {
  const text = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
  const [, version] = /#define PEEL_VERSION "(.*)"/.exec(text("../../csrc/device/peel.h"));
  assert.equal(JSON.parse(text("../package.json")).version, version);
});

test("the module is at most 100,000 bytes and the JavaScript 10,240, both gzip", () => {
  const dist = new URL("../dist/", import.meta.url);
  const size = (end) =>
    readdirSync(dist)
      .filter((name) => name.endsWith(end))
      .reduce((sum, name) => sum + gzipSync(readFileSync(new URL(name, dist)), { level: 9 }).length, 0);
  console.log(`gzip: module ${size(".wasm")} bytes, JavaScript ${size(".js")} bytes`);
  assert.ok(size(".wasm") > 0 && size(".wasm") <= 100_000);
  assert.ok(size(".js") > 0 && size(".js") <= 10_240);
});

/** A file with other item ids behind its blocks, and nothing else there. */
function withItemIds(file, ids, { integers = true, spoil = () => undefined } = {}) {
  const view = new DataView(file.buffer, file.byteOffset);
  const blocksEnd = 64 * view.getUint32(44, true);
  const texts = ids.map((id) => new TextEncoder().encode(id));
  const text = Buffer.concat(texts);
  spoil(text);
  const payload = 4 * (ids.length + 1) + text.length;
  const section = new Uint8Array(64 + Math.ceil(payload / 64) * 64);
  const header = new DataView(section.buffer);
  header.setUint32(4, 2, true);
  header.setBigUint64(8, BigInt(payload), true);
  header.setBigUint64(16, BigInt(ids.length), true);
  header.setUint32(24, integers ? 1 : 0, true);
  let end = 0;
  texts.forEach((name, i) => header.setUint32(64 + 4 * (i + 1), (end += name.length), true));
  section.set(text, 64 + 4 * (ids.length + 1));
  header.setUint32(0, crc32(section.subarray(4), view.getUint32(60, true)), true);
  return Buffer.concat([file.subarray(0, blocksEnd), section]);
}

function crc32(bytes, start) {
  let crc = ~start;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; ++bit) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
