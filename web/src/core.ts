import { ArgumentError, FormatError, PeelError, Status, errorOf } from "./errors.js";

const MOST_BYTES = 2 ** 31 - 1;
const ERROR_BYTES = 272;
const INFO_BYTES = 72;
const USER_FILE_BYTES = 32;
const NO_BUDGET = -1;

/** Fills `into` with the bytes of the file from `offset` on; false where they are not here. */
export type Read = (offset: number, into: Uint8Array) => boolean;

type Call = (...values: (number | bigint)[]) => number;

interface Exports {
  memory: WebAssembly.Memory;
  __wasm_call_ctors(): void;
  allocate(bytes: number): number;
  release(address: number): void;
  open(size: number, budget: number, handle: number, error: number): number;
  find_user(size: number, user: number, found: number, error: number): number;
  [name: `peel_${string}`]: Call;
}

/** What is held, as `peel_info` has it. */
export interface Info {
  readonly numEmbeddings: number;
  readonly numRows: number;
  readonly embeddingDim: number;
  readonly group: number;
  readonly numBlocks: number;
  readonly allBlocks: number;
  readonly nbytes: number;
  readonly prefixBytes: number;
  readonly rotated: boolean;
}

/** Rows and their scores, best first. */
export interface Scored {
  readonly rows: number[];
  readonly scores: Float32Array;
}

export type ItemIdType = "none" | "integer" | "text";

let compiled: Promise<WebAssembly.Module> | undefined;

/** The module, compiled once; after a failure, at the next call again. */
export function compileModule(): Promise<WebAssembly.Module> {
  compiled ??= loadModule().catch((error: unknown) => {
    compiled = undefined;
    throw error;
  });
  return compiled;
}

async function loadModule(): Promise<WebAssembly.Module> {
  const url = new URL("./peel.wasm", import.meta.url);
  if (url.protocol === "file:") {
    const name = "node:fs/promises"; // in a variable, so that bundlers for browsers pass over it
    const { readFile } = (await import(/* @vite-ignore */ /* webpackIgnore: true */ name)) as {
      readFile(path: URL): Promise<Uint8Array<ArrayBuffer>>;
    };
    return WebAssembly.compile(await readFile(url));
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.href}: the server answers ${response.status}`);
  return WebAssembly.compile(await response.arrayBuffer());
}

/** An instance of the module with a memory of its own, and calls of the C interface in it. */
class Instance {
  protected readonly exports: Exports;

  /** `read` is the module's: offset, count and address; not 0 where the bytes are not here. */
  constructor(
    module: WebAssembly.Module,
    read: (offset: number, count: number, into: number) => number,
  ) {
    this.exports = new WebAssembly.Instance(module, { peel: { read } })
      .exports as unknown as Exports;
    this.exports.__wasm_call_ctors();
  }

  /** Runs f, and then releases what it allocated. */
  protected scratch<T>(f: (allocate: Allocate) => T): T {
    const addresses: number[] = [];
    try {
      return f((bytes) => {
        // Beyond, the module would take it for another number.
        if (bytes > MOST_BYTES) throw new PeelError(Status.MEMORY, "out of memory");
        const address = this.exports.allocate(Math.max(bytes, 1));
        if (address === 0) throw new PeelError(Status.MEMORY, "out of memory");
        addresses.push(address);
        return address;
      });
    } finally {
      for (const address of addresses) this.exports.release(address);
    }
  }

  /** Calls a function of the C interface, and throws what it says is wrong. */
  protected check(call: (error: number) => number): void {
    this.scratch((allocate) => {
      const error = allocate(ERROR_BYTES);
      const status = this.guarded(call, error);
      if (status === Status.OK) return;
      const message = this.bytes().subarray(error + 16, error + ERROR_BYTES);
      throw errorOf(
        status,
        decodeText(message.subarray(0, message.indexOf(0))),
        Number(this.view().getBigUint64(error + 8, true)),
      );
    });
  }

  private guarded(call: (error: number) => number, error: number): number {
    try {
      return call(error);
    } catch (trap) {
      if (!(trap instanceof WebAssembly.RuntimeError)) throw trap;
      throw new PeelError(Status.INTERNAL, `the module failed: ${trap.message}`, { cause: trap });
    }
  }

  protected bytes(): Uint8Array {
    return new Uint8Array(this.exports.memory.buffer);
  }

  protected view(): DataView {
    return new DataView(this.exports.memory.buffer);
  }
}

/**
 * One opened file: an instance of the module with a memory of its own, which goes back to the system
 * when nobody refers to it any more.
 */
export class Core extends Instance {
  readonly info: Info;
  #handle: number;
  #prefix = 0;

  /**
   * Opens a file of `size` bytes under a budget; all that it reads must be here.
   *
   * @throws PeelError with the status and the message of the C interface.
   */
  constructor(module: WebAssembly.Module, read: Read, size: number, budget: number | null) {
    super(module, (offset, count, into) => {
      // The prefix is read last: where that was put, it is held.
      if (offset === 0) this.#prefix = into;
      return read(offset, new Uint8Array(this.exports.memory.buffer, into, count)) ? 0 : 1;
    });
    this.#handle = this.scratch((allocate) => {
      const handle = allocate(4);
      this.check((error) => this.exports.open(size, budget ?? NO_BUDGET, handle, error));
      return this.view().getUint32(handle, true);
    });
    this.info = this.#readInfo();
  }

  /** The bytes of the file that are held, where they are. */
  prefix(): Uint8Array {
    return new Uint8Array(this.exports.memory.buffer, this.#prefix, this.info.prefixBytes);
  }

  score(user: Float32Array, exclude: readonly number[], n: number): Scored {
    return this.#scored(n, (allocate, rows, scores, error) =>
      this.exports.peel_score!(
        this.#handle,
        this.#floats(allocate, user),
        this.#rows(allocate, exclude),
        exclude.length,
        n,
        rows,
        scores,
        error,
      ),
    );
  }

  scoreWithShipped(
    user: Float32Array,
    exclude: readonly number[],
    shipped: readonly number[],
    shippedScores: Float32Array,
    n: number,
  ): Scored {
    return this.#scored(n, (allocate, rows, scores, error) =>
      this.exports.peel_score_with_shipped!(
        this.#handle,
        this.#floats(allocate, user),
        this.#rows(allocate, exclude),
        exclude.length,
        this.#rows(allocate, shipped),
        this.#floats(allocate, shippedScores),
        shipped.length,
        n,
        rows,
        scores,
        error,
      ),
    );
  }

  similar(row: number, n: number): Scored {
    return this.#scored(n, (_allocate, rows, scores, error) =>
      this.exports.peel_similar!(this.#handle, BigInt(row), n, rows, scores, error),
    );
  }

  scoreItems(user: Float32Array, rows: readonly number[]): Float32Array {
    return this.scratch((allocate) => {
      const scores = allocate(4 * rows.length);
      this.check((error) =>
        this.exports.peel_score_items!(
          this.#handle,
          this.#floats(allocate, user),
          this.#rows(allocate, rows),
          rows.length,
          scores,
          error,
        ),
      );
      return this.#readFloats(scores, rows.length);
    });
  }

  /** A user's vector, and how many items of the history are held. */
  foldIn(history: readonly number[]): { user: Float32Array; held: number } {
    return this.scratch((allocate) => {
      const user = allocate(4 * this.info.embeddingDim);
      const held = allocate(4);
      this.check((error) =>
        this.exports.peel_fold_in!(
          this.#handle,
          this.#rows(allocate, history),
          history.length,
          user,
          held,
          error,
        ),
      );
      return {
        user: this.#readFloats(user, this.info.embeddingDim),
        held: this.view().getUint32(held, true),
      };
    });
  }

  continueVector(user: Float32Array, knownCount: number, items: readonly number[]): Float32Array {
    return this.scratch((allocate) => {
      const fresh = this.#floats(allocate, user);
      this.check((error) =>
        this.exports.peel_continue!(
          this.#handle,
          knownCount,
          this.#rows(allocate, items),
          items.length,
          fresh,
          0,
          error,
        ),
      );
      return this.#readFloats(fresh, user.length);
    });
  }

  /** The user that a history nothing is held of is taken for; not known: the average of what is held. */
  averageUser(): { user: Float32Array; known: boolean } {
    return this.scratch((allocate) => {
      const known = allocate(4);
      const user = this.#vector((out, error) =>
        this.exports.peel_average_user!(this.#handle, out, known, error),
      );
      return { user, known: this.view().getInt32(known, true) !== 0 };
    });
  }

  rotate(vector: Float32Array): Float32Array {
    return this.#vector((rotated, error, allocate) =>
      this.exports.peel_rotate!(this.#handle, this.#floats(allocate, vector), rotated, error),
    );
  }

  chooseGroup(user: Float32Array): number {
    return this.scratch((allocate) => {
      const group = allocate(8);
      this.check((error) =>
        this.exports.peel_choose_group!(this.#handle, this.#floats(allocate, user), group, error),
      );
      return Number(this.view().getBigInt64(group, true));
    });
  }

  itemIdType(): ItemIdType {
    return this.scratch((allocate) => {
      const type = allocate(4);
      this.check((error) => this.exports.peel_get_item_id_type!(this.#handle, type, error));
      return (["none", "integer", "text"] as const)[this.view().getUint32(type, true)]!;
    });
  }

  /** The rows of item ids; -1 for one that the file does not have. */
  findRows(itemIds: readonly string[]): number[] {
    return this.scratch((allocate) => {
      const texts = itemIds.map((id) => new TextEncoder().encode(id + "\0"));
      const addresses = texts.map((text) => allocate(text.length));
      texts.forEach((text, i) => this.bytes().set(text, addresses[i]));
      const pointers = allocate(4 * itemIds.length);
      new Uint32Array(this.exports.memory.buffer, pointers, itemIds.length).set(addresses);
      const rows = allocate(8 * itemIds.length);
      this.check((error) =>
        this.exports.peel_find_rows_by_text!(this.#handle, pointers, itemIds.length, rows, error),
      );
      return this.#readRows(rows, itemIds.length);
    });
  }

  /** The item id of a row, as text. */
  itemText(row: number): string {
    let capacity = 64;
    for (;;) {
      const text = this.scratch((allocate) => {
        const to = allocate(capacity);
        const length = allocate(4);
        this.check((error) =>
          this.exports.peel_get_item_text!(
            this.#handle,
            BigInt(row),
            to,
            capacity,
            length,
            error,
          ),
        );
        const bytes = this.view().getUint32(length, true);
        if (bytes < capacity) return decodeItemId(this.bytes().subarray(to, to + bytes));
        capacity = bytes + 1;
        return null;
      });
      if (text !== null) return text;
    }
  }

  #readInfo(): Info {
    return this.scratch((allocate) => {
      const info = allocate(INFO_BYTES);
      this.check((error) => this.exports.peel_get_info!(this.#handle, info, error));
      const view = this.view();
      const at = (index: number): number => Number(view.getBigInt64(info + 8 * index, true));
      return {
        numEmbeddings: at(0),
        numRows: at(1),
        embeddingDim: at(2),
        group: at(3),
        numBlocks: at(4),
        allBlocks: at(5),
        nbytes: at(6),
        prefixBytes: at(7),
        rotated: view.getInt32(info + 64, true) !== 0,
      };
    });
  }

  #scored(
    n: number,
    call: (allocate: Allocate, rows: number, scores: number, error: number) => number,
  ): Scored {
    return this.scratch((allocate) => {
      const rows = allocate(8 * n);
      const scores = allocate(4 * n);
      this.check((error) => call(allocate, rows, scores, error));
      const found = this.#readRows(rows, n).filter((row) => row >= 0);
      return { rows: found, scores: this.#readFloats(scores, found.length) };
    });
  }

  #vector(call: (out: number, error: number, allocate: Allocate) => number): Float32Array {
    return this.scratch((allocate) => {
      const out = allocate(4 * this.info.embeddingDim);
      this.check((error) => call(out, error, allocate));
      return this.#readFloats(out, this.info.embeddingDim);
    });
  }

  #floats(allocate: Allocate, values: Float32Array): number {
    const address = allocate(4 * values.length);
    new Float32Array(this.exports.memory.buffer, address, values.length).set(values);
    return address;
  }

  #rows(allocate: Allocate, rows: readonly number[]): number {
    const address = allocate(8 * rows.length);
    const view = this.view();
    rows.forEach((row, i) => view.setBigInt64(address + 8 * i, BigInt(row), true));
    return address;
  }

  #readFloats(address: number, count: number): Float32Array {
    return new Float32Array(this.exports.memory.buffer, address, count).slice();
  }

  #readRows(address: number, count: number): number[] {
    return Array.from(new BigInt64Array(this.exports.memory.buffer, address, count), Number);
  }

}

/** Where a user's file lies in a bundle, and what its header says. */
export interface UserFile {
  readonly offset: number;
  readonly size: number;
  readonly blocksEnd: number;
  readonly headerChecksum: number;
}

/** Finds users in a bundle. */
class Finder extends Instance {
  constructor(module: WebAssembly.Module, read: Read) {
    super(module, (offset, count, into) =>
      read(offset, new Uint8Array(this.exports.memory.buffer, into, count)) ? 0 : 1,
    );
  }

  find(size: number, user: string): UserFile {
    return this.scratch((allocate) => {
      const text = new TextEncoder().encode(user + "\0");
      const id = allocate(text.length);
      this.bytes().set(text, id);
      const found = allocate(USER_FILE_BYTES);
      this.check((error) => this.exports.find_user(size, id, found, error));
      const view = this.view();
      const at = (index: number): number => Number(view.getBigUint64(found + 8 * index, true));
      return {
        offset: at(0),
        size: at(1),
        blocksEnd: at(2),
        headerChecksum: view.getUint32(found + 24, true),
      };
    });
  }
}

/**
 * Where a user's file lies in a bundle of `size` bytes; all that the index needs must be here.
 *
 * @throws PeelError with the status and the message of the C interface.
 */
export function findUser(
  module: WebAssembly.Module,
  read: Read,
  size: number,
  user: string,
): UserFile {
  return new Finder(module, read).find(size, user);
}

type Allocate = (bytes: number) => number;

function decodeText(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

function decodeItemId(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    const shown = JSON.stringify(decodeText(bytes));
    throw new FormatError(`not a valid .peel file: item id ${shown} is no text`);
  }
}

/** What a size or a count must be. */
export function checkInteger(name: string, value: unknown, least: number): number {
  if (!Number.isSafeInteger(value) || (value as number) < least) {
    throw new ArgumentError(`${name} must be an integer of at least ${least}, got ${String(value)}`);
  }
  return value as number;
}
