import type { SourceError } from "./errors.js";
import { Pieces, type Piece } from "./pieces.js";

/** Where the bytes of a `.peel` file come from. */
export interface PeelFile {
  /** Bytes of the whole file. */
  readonly size: number;
  /** Why the bytes come from the cache alone; null where they need not. */
  readonly failure: SourceError | null;
  /**
   * Has the bytes here that opening under a budget reads. Where the server cannot be reached and
   * `torn` is allowed, the budget may be smaller: what the cache has.
   */
  prepare(request: HoldRequest): Promise<Prepared>;
  /** The bytes [offset, offset + count), or more. */
  load(offset: number, count: number, signal?: AbortSignal): Promise<Piece>;
  /** Keeps in the cache what was fetched. */
  store(pieces: Pieces): Promise<void>;
  /** Drops what the cache has, which is damaged; false where that was not the source. */
  forget(): Promise<boolean>;
}

/** What is to be held. */
export interface HoldRequest {
  budget: number | null;
  /** The first bytes of the file, held already. */
  held?: Uint8Array;
  torn: boolean;
  signal?: AbortSignal | undefined;
}

/** What is here of it. */
export interface Prepared {
  pieces: Pieces;
  budget: number | null;
}

/** Bytes in memory. */
export class BufferFile implements PeelFile {
  readonly size: number;
  readonly failure = null;
  #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.size = bytes.length;
  }

  async prepare({ budget }: HoldRequest): Promise<Prepared> {
    return { pieces: new Pieces({ offset: 0, bytes: this.#bytes }), budget };
  }

  async load(): Promise<Piece> {
    return { offset: 0, bytes: this.#bytes };
  }

  async store(): Promise<void> {}

  async forget(): Promise<boolean> {
    return false;
  }
}
