import type { FileCache } from "./cache.js";

/**
 * An item: its id in the file, a number or text; where the file has no ids, or they are not wanted,
 * its row. An integer beyond `Number.MAX_SAFE_INTEGER` is text in decimal.
 */
export type Item = number | string;

/** A user's vector, of `embeddingDim` values. */
export type Vector = ArrayLike<number>;

export interface OpenOptions {
  /** Upper limit of everything held for the table; without it, or null: all there is. */
  budgetBytes?: number | null;
  /**
   * Where the file is a bundle of many users' files: the id of the one whose file to open. An integer
   * is its decimal text. Nothing is read of the others but where they lie.
   */
  user?: number | string;
  /**
   * With a URL: where to keep what was fetched, so that a second visit fetches nothing twice and
   * needs no network. The name of a cache in Cache Storage, or an object with its `match`, `put` and
   * `delete`. One entry a file: its first bytes, and what lies behind the blocks.
   */
  cache?: string | FileCache;
  /** Whether to tell items by the ids of the file; without them they are row numbers. */
  itemIds?: boolean;
  /** Ends the requests, and so the opening, with the signal's reason. */
  signal?: AbortSignal;
}

export interface UserOptions {
  /**
   * Items the user knows. Without `user` its vector is learned from them; where none of them is
   * held, it is that of the group's average user.
   */
  history?: readonly Item[];
  /** The user's vector. */
  user?: Vector;
  /**
   * Whether `user` is in the space of the rows, as what was shipped for this file or folded in is.
   * False: it is in that of the model, and is rotated here. To be said where the rows are rotated,
   * for a vector does not tell.
   */
  rotated?: boolean;
}

export interface ScoreOptions {
  /** Items to return, at least 1; 20 without it. */
  n?: number;
  /** Items to leave out. */
  exclude?: readonly Item[];
}

export interface RecommendOptions extends UserOptions, ScoreOptions {
  /**
   * Distinct items that a server ranked for the user with the full table, and their scores. Those
   * that are not held compete with these scores, so that what a budget has no room for is not lost.
   */
  shipped?: { readonly items: readonly Item[]; readonly scores: Vector };
}

/** Items and their scores, as many as there are up to n: best first, equal scores in order of rows. */
export interface Recommendations {
  readonly items: Item[];
  readonly scores: Float32Array;
}

/** Those for a user. */
export interface UserRecommendations extends Recommendations {
  /** False where nothing is known of the user, not even the average of its group. */
  readonly userKnown: boolean;
}
