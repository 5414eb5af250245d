// Recommends from a .peel file in Node, through the C library:
//
//     node recommend.js LIBRARY FILE BUDGET N ITEM...
//
// opens FILE under BUDGET bytes (0: all of it), learns the user's vector from the ITEMs it knows, by
// their item ids where the file has some and else by row, and prints the N best others.
"use strict";
const koffi = require("koffi");

const [libraryPath, file, budget, count, ...known] = process.argv.slice(2);
if (count === undefined) {
  console.error("usage: recommend.js LIBRARY FILE BUDGET N ITEM...");
  process.exit(2);
}

const library = koffi.load(libraryPath);
const PeelError = koffi.struct("peel_error", {
  status: "int",
  minimum_bytes: "uint64_t",
  message: koffi.array("char", 256, "String"),
});
const Recommender = koffi.opaque("peel_recommender");
const peel = {
  open: library.func(
    "int peel_open_file(const char* path, uint64_t budget, _Out_ peel_recommender** r, _Out_ peel_error* e)"),
  close: library.func("void peel_close(peel_recommender* r)"),
  recommend: library.func(
    "int peel_recommend(peel_recommender* r, const int64_t* history, size_t known, size_t n, " +
      "_Out_ int64_t* ids, _Out_ float* scores, _Out_ peel_error* e)"),
  itemIdType: library.func("int peel_get_item_id_type(peel_recommender* r, _Out_ int* type, _Out_ peel_error* e)"),
  findRows: library.func(
    "int peel_find_rows_by_text(peel_recommender* r, const char** names, size_t count, _Out_ int64_t* ids, " +
      "_Out_ peel_error* e)"),
  itemText: library.func(
    "int peel_get_item_text(peel_recommender* r, int64_t id, _Out_ uint8_t* text, size_t capacity, " +
      "_Out_ size_t* length, _Out_ peel_error* e)"),
};

// Calls a function whose last argument is where an error goes, and throws the error.
function check(call, ...args) {
  const error = {};
  if (call(...args, error) !== 0) throw new Error(error.message);
}

// Row numbers of what the user typed.
function rowsOf(recommender, names, hasIds) {
  if (!hasIds) return BigInt64Array.from(names, BigInt);
  const rows = new BigInt64Array(names.length);
  check(peel.findRows, recommender, names, names.length, rows);
  const unknown = rows.indexOf(-1n);
  if (unknown >= 0) throw new Error(`item '${names[unknown]}' is not known`);
  return rows;
}

function nameOf(recommender, row, hasIds) {
  if (!hasIds) return String(row);
  const length = [0];
  check(peel.itemText, recommender, row, null, 0, length);
  const text = new Uint8Array(Number(length[0]) + 1);
  check(peel.itemText, recommender, row, text, text.length, length);
  return new TextDecoder().decode(text.subarray(0, -1));
}

function main() {
  const opened = [null];
  const bytes = budget === "0" ? 0xffffffffffffffffn : BigInt(budget);
  check(peel.open, file, bytes, opened);
  const recommender = opened[0];
  try {
    const type = [0];
    check(peel.itemIdType, recommender, type);
    const history = rowsOf(recommender, known, type[0] !== 0);
    const ids = new BigInt64Array(Number(count));
    const scores = new Float32Array(Number(count));
    check(peel.recommend, recommender, history, history.length, ids.length, ids, scores);
    ids.forEach((row, i) => {
      if (row >= 0n) console.log(`${nameOf(recommender, row, type[0] !== 0)}\t${scores[i].toFixed(4)}`);
    });
  } finally {
    peel.close(recommender);
  }
}

try {
  main();
} catch (error) {
  console.error(`recommend: ${error.message}`);
  process.exitCode = 1;
}
