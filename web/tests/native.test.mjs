// The same answers as the native library, bit for bit, and the same errors.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Peel } from "../dist/peel.js";
import { bits, failure, golden, nativeAnswers } from "./support.mjs";

const native = nativeAnswers();
console.log(`answers of seed ${native.seed}`);

function plain(value) {
  if (value instanceof Float32Array) return bits(value);
  return { items: value.items, scores: bits(value.scores) };
}

function assertSameError(error, expected) {
  assert.equal(error.status, expected.status, error.stack);
  const message = expected.message?.replace(/^budget_bytes/, "budgetBytes"); // its name here
  if (message) assert.equal(error.message, message);
  if (expected.minimum) assert.equal(error.minimumBytes, expected.minimum);
}

test("golden files give the native answers under every budget", async () => {
  let compared = 0;
  for (const { file, budget, calls, error, nbytes, blocks } of native.golden) {
    if (error) {
      assertSameError(await failure(() => Peel.open(golden(file), { budgetBytes: budget })), error);
      continue;
    }
    const opened = await Peel.open(golden(file), { budgetBytes: budget });
    const resized = await Peel.open(golden(file));
    await resized.resize(1800);
    await resized.resize(budget);
    for (const peel of [opened, resized]) {
      assert.equal(peel.nbytes, nbytes);
      assert.equal(peel.numBlocks, blocks);
      for (const { method, arguments: given, value, ...expected } of calls) {
        const where = `${file} under ${budget}: ${method}(${JSON.stringify(given)})`;
        if (value === undefined) {
          assertSameError(await failure(() => peel[method](...given)), expected);
        } else {
          assert.deepEqual(plain(await peel[method](...given)), value, where);
        }
        ++compared;
      }
    }
  }
  assert.ok(compared > 1000, `${compared} calls`);
});

test("torn, damaged and hostile files give the native errors and answers", async () => {
  let opened = 0;
  for (const { bytes, budget, error, nbytes, top, folded } of native.malformed) {
    const data = new Uint8Array(Buffer.from(bytes, "base64"));
    const open = () => Peel.open(data, { budgetBytes: budget, itemIds: false });
    if (error) {
      assertSameError(await failure(open), error);
      continue;
    }
    ++opened;
    const peel = await open();
    assert.equal(peel.nbytes, nbytes);
    const user = new Float32Array(peel.embeddingDim).fill(0.5);
    assert.deepEqual(plain(await peel.recommend({ user, rotated: true, n: 5 })), top);
    assert.equal(bits(await peel.foldIn([0, peel.numEmbeddings - 1])), folded);
  }
  assert.ok(opened > 50 && opened < native.malformed.length - 50, `${opened} opened`);
});

test("sizes that wrap in 32 bits are refused with the native status", async () => {
  assert.ok(native.oversized.length > 100);
  for (const { file, bytes, error, asked } of native.oversized) {
    const data = new Uint8Array(Buffer.from(bytes, "base64"));
    if (error) {
      assertSameError(await failure(() => Peel.open(data)), error);
      continue;
    }
    const peel = await Peel.open(data);
    const user = new Float32Array(peel.embeddingDim).fill(1);
    const found = await failure(async () => {
      await peel.recommend({ user, rotated: true, n: 5 });
      await peel.chooseGroup(user);
    });
    assert.equal(found.status, asked.status, `${file}: ${asked.message}\n${found.stack}`);
  }
});
