import { FormatError } from "./errors.js";
import { Instance, decodeText, type Allocate } from "./instance.js";
import type { Read } from "./pieces.js";

const INFO_BYTES = 72;
const NO_BUDGET = -1;
const MOST_COUNT = 2 ** 32 - 1;

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
    super(module, read, (offset, address) => {
      // The prefix is read last: where that was put, it is held.
      if (offset === 0) this.#prefix = address;
    });
    const limit = budget === null ? NO_BUDGET : Math.min(Math.max(0, budget), Number.MAX_SAFE_INTEGER);
    this.#handle = this.scratch((allocate) => {
      const handle = allocate(4);
      this.check((error) => this.exports.open(size, limit, handle, error));
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
          Math.min(knownCount, MOST_COUNT), // beyond, the module would take it for another number
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

function decodeItemId(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    const shown = JSON.stringify(decodeText(bytes));
    throw new FormatError(`not a valid .peel file: item id ${shown} is no text`);
  }
}
