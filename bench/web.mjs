// Milliseconds of the npm package, as bench/web.py asks for them: node bench/web.mjs FILE BUDGET TURNS
import { readFileSync } from "node:fs";
import { Peel } from "../web/dist/peel.js";

const [path, budget, turns] = process.argv.slice(2);
const file = readFileSync(path);
const options = { budgetBytes: Number(budget), itemIds: false };

function timed(times, began) {
  times.push(performance.now() - began);
}

// What other work on the machine adds is never taken away again.
function least(times) {
  return Math.min(...times);
}

const firstBegan = performance.now();
const peel = await Peel.open(file, options);
const { items: known } = await peel.score(new Float32Array(peel.embeddingDim).fill(1), { n: 20 });
const cold = performance.now() - firstBegan;
const [opening, answering, folding] = [[], [], []];
for (let turn = 0; turn < turns; ++turn) {
  const user = Float32Array.from({ length: peel.embeddingDim }, () => Math.random() - 0.5);
  const began = performance.now();
  const fresh = await Peel.open(file, options);
  await fresh.recommend({ user, rotated: true });
  timed(opening, began);
  fresh.close();
  for (let i = 0; i < 50; ++i) {
    const asked = performance.now();
    await peel.recommend({ user, rotated: true });
    timed(answering, asked);
  }
  const asked = performance.now();
  await peel.foldIn(known);
  timed(folding, asked);
}
console.log(
  JSON.stringify({
    nbytes: peel.nbytes,
    cold_open_and_first_answer_ms: cold,
    open_and_first_answer_ms: least(opening),
    recommend_ms: least(answering),
    fold_in_ms: least(folding),
  }),
);
