import { SourceError } from "./errors.js";

/** Fills `into` with the bytes of the file from `offset` on; false where they are not here. */
export type Read = (offset: number, into: Uint8Array) => boolean;

/** Bytes of a file that are here, the first at `offset`. */
export interface Piece {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** Bytes of a file that are here, in pieces. */
export class Pieces {
  #pieces: Piece[];

  constructor(...pieces: Piece[]) {
    this.#pieces = pieces;
  }

  add(piece: Piece): void {
    this.#pieces.push(piece);
  }

  /** Where the bytes from `offset` on end that are here without a gap. */
  endFrom(offset: number): number {
    let at = offset;
    for (let piece = this.#at(at); piece; piece = this.#at(at)) {
      at = piece.offset + piece.bytes.length;
    }
    return at;
  }

  /** Fills `into` with the bytes from `offset` on; false where one of them is not here. */
  read(offset: number, into: Uint8Array): boolean {
    for (let filled = 0; filled < into.length; ) {
      const piece = this.#at(offset + filled);
      if (!piece) return false;
      const from = offset + filled - piece.offset;
      const part = piece.bytes.subarray(from, from + into.length - filled);
      into.set(part, filled);
      filled += part.length;
    }
    return true;
  }

  #at(offset: number): Piece | undefined {
    return this.#pieces.find(
      (piece) => piece.offset <= offset && offset < piece.offset + piece.bytes.length,
    );
  }
}

/** Gives what is here to who reads, and remembers what was not. */
export class Reader {
  pieces: Pieces;
  #missing: { offset: number; count: number } | null = null;

  constructor(pieces: Pieces) {
    this.pieces = pieces;
  }

  read: Read = (offset, into) => {
    if (this.pieces.read(offset, into)) return true;
    this.#missing = { offset, count: into.length };
    return false;
  };

  /** Calls f, which reads; where bytes were missing to it, loads them and calls it again. */
  async attempt<T>(
    f: () => T,
    load: (offset: number, count: number) => Promise<Piece>,
  ): Promise<T> {
    for (;;) {
      this.#missing = null;
      try {
        return f();
      } catch (error) {
        // Only `read` sets it, which the compiler does not see.
        const missing = this.#missing as { offset: number; count: number } | null;
        if (!(error instanceof SourceError) || !missing) throw error;
        this.pieces.add(await load(missing.offset, missing.count));
      }
    }
  }
}
