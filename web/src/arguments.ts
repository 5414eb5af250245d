import type { ItemIdType } from "./core.js";
import { ArgumentError } from "./errors.js";

/** An argument as an error shows it: what is text is told from what is a number. */
export function shown(value: unknown): string {
  if (typeof value === "string") return `'${value}'`;
  if (typeof value === "bigint") return `${value}n`;
  return Array.isArray(value) ? `[${String(value)}]` : String(value);
}

/** What a size or a count must be. */
export function checkInteger(name: string, value: unknown, least: number): number {
  if (Number.isSafeInteger(value) && (value as number) >= least) return value as number;
  throw new ArgumentError(`${name} must be an integer of at least ${least}, got ${shown(value)}`);
}

/** A budget, which may also be below 0 or beyond what is exact; one that is no limit is null. */
export function checkBudget(budgetBytes: unknown): number | null {
  if (budgetBytes === null || budgetBytes === undefined) return null;
  if (Number.isInteger(budgetBytes)) return budgetBytes as number;
  throw new ArgumentError(`budgetBytes must be an integer or null, got ${shown(budgetBytes)}`);
}

/** The id of a user of a bundle, as its index has it. */
export function checkUserId(user: unknown): string {
  const isText = typeof user === "string" && user !== "" && !/[\0\p{Surrogate}]/u.test(user);
  if (isText || Number.isSafeInteger(user)) return String(user);
  throw new ArgumentError(
    `user must be an integer, or text that is not empty and has no zero, got ${shown(user)}`,
  );
}

/** An item that is a row of the table. */
export function checkRow(name: string, item: unknown, numEmbeddings: number): number {
  const isRow = Number.isSafeInteger(item) && 0 <= (item as number);
  if (isRow && (item as number) < numEmbeddings) return item as number;
  throw new ArgumentError(`${name} is ${shown(item)}, expected an id in [0, ${numEmbeddings})`);
}

/** Items that must be of different rows. */
export function checkDistinct(name: string, rows: number[], items: ArrayLike<unknown>): void {
  const before = new Set<number>();
  rows.forEach((row, i) => {
    if (before.has(row)) {
      throw new ArgumentError(`${name} must name an item once, got ${shown(items[i])} twice`);
    }
    before.add(row);
  });
}

/** A vector of `count` values. */
export function checkFloats(name: string, values: unknown, count: number): Float32Array {
  const given = typeof values === "object" && values !== null ? (values as ArrayLike<unknown>) : null;
  if (given?.length !== count) {
    const got = given?.length ?? shown(values);
    throw new ArgumentError(`${name} must have ${count} values, got ${got}`);
  }
  return Float32Array.from(given, (value, i) => {
    if (typeof value === "number" && Number.isFinite(Math.fround(value))) return value;
    throw new ArgumentError(
      `${name}[${i}] must be a number that is finite as float32, got ${shown(value)}`,
    );
  });
}

/** An item as the file writes its id; null where it can be none of its ids. */
export function textOf(item: unknown, type: ItemIdType): string | null {
  if (type === "text") return typeof item === "string" && !item.includes("\0") ? item : null;
  if (Number.isSafeInteger(item)) return String(item);
  const beyond = typeof item === "string" && /^-?[0-9]+$/.test(item);
  return beyond && !Number.isSafeInteger(Number(item)) ? item : null;
}

/** An integer id as a number, where that is exact. */
export function integerOf(text: string): number | string {
  const integer = Number(text);
  return Number.isSafeInteger(integer) ? integer : text;
}
