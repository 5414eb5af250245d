import {
  checkBudget,
  checkDistinct,
  checkFloats,
  checkInteger,
  checkRow,
  integerOf,
  shown,
  textOf,
} from "./arguments.js";
import type { Core, ItemIdType, Scored } from "./core.js";
import { ArgumentError, ClosedError, FormatError, NotHeldError, type SourceError } from "./errors.js";
import type { PeelFile } from "./file.js";
import { compileModule } from "./module.js";
import { hold, openFile, type Holding } from "./opening.js";
import type {
  Item,
  OpenOptions,
  RecommendOptions,
  Recommendations,
  ScoreOptions,
  UserOptions,
  UserRecommendations,
  Vector,
} from "./options.js";

export * from "./errors.js";
export type { FileCache } from "./cache.js";
export type * from "./options.js";

/**
 * Recommends items from what it holds of a `.peel` file, under a budget of bytes that may change.
 *
 * Every answer is that of what was held at one moment. What lies behind the blocks, item ids and
 * centroids, is fetched when it is first needed and kept beside what the budget counts.
 */
export class Peel {
  #file: PeelFile;
  #module: WebAssembly.Module;
  #holding: Holding | null;
  #wantsIds: boolean;
  #itemIdType: ItemIdType | null = null;
  #resizing: Promise<unknown> = Promise.resolve();

  private constructor(
    file: PeelFile,
    module: WebAssembly.Module,
    holding: Holding,
    wantsIds: boolean,
  ) {
    this.#file = file;
    this.#module = module;
    this.#holding = holding;
    this.#wantsIds = wantsIds;
  }

  /**
   * Opens a file and holds as many of its blocks as the budget has room for.
   *
   * @param file the URL of a server that answers range requests, of which only the bytes held are
   *   fetched; or the bytes themselves. Bytes of which only the first have arrived are a smaller
   *   model, whose items go by row: open them with `itemIds: false`.
   * @throws FormatError not a `.peel` file, a newer version, or damaged; with a user, no bundle.
   * @throws NoUserError the bundle has no file of this user.
   * @throws SourceError it cannot be read.
   * @throws BudgetError too few bytes for the first block; names the minimum.
   * @throws ArgumentError an option is not what it should be.
   */
  static async open(
    file: string | URL | ArrayBuffer | ArrayBufferView,
    options: OpenOptions = {},
  ): Promise<Peel> {
    const { itemIds = true, signal } = options;
    const budget = checkBudget(options.budgetBytes);
    const module = await compileModule();
    const source = await openFile(file, options, budget, module);
    let holding: Holding;
    try {
      holding = await hold(module, source, { budget, torn: true, signal });
    } catch (error) {
      if (!(error instanceof FormatError) || !(await source.forget())) throw error;
      holding = await hold(module, source, { budget, torn: true, signal });
    }
    const peel = new Peel(source, module, holding, itemIds);
    if (options.cache !== undefined && itemIds && !source.failure) {
      await peel.#run(() => peel.#type(holding.core), signal);
    }
    return peel;
  }

  // ---- what is held ----

  /** Bytes held for the table: header, entries, blocks, and the directory to find them by. */
  get nbytes(): number {
    return this.#held().core.info.nbytes;
  }

  /** Blocks held. */
  get numBlocks(): number {
    return this.#held().core.info.numBlocks;
  }

  /** Items of the whole table. */
  get numEmbeddings(): number {
    return this.#held().core.info.numEmbeddings;
  }

  /** Values of a user's vector. */
  get embeddingDim(): number {
    return this.#held().core.info.embeddingDim;
  }

  /** The user group of the file. */
  get group(): number {
    return this.#held().core.info.group;
  }

  /** Whether the file says that its rows are rotated. */
  get rotated(): boolean {
    return this.#held().core.info.rotated;
  }

  /** Why what is held came from the cache alone, and may be less than the budget; else null. */
  get failure(): SourceError | null {
    return this.#file.failure;
  }

  /**
   * Holds what opening under this budget would hold; only what is missing is fetched. What was held
   * stays when this fails.
   *
   * @throws BudgetError too few bytes for the first block; names the minimum.
   * @throws SourceError what is missing cannot be read.
   * @throws FormatError what is missing is damaged, or the file is not the one opened.
   */
  async resize(budgetBytes: number | null, options: { signal?: AbortSignal } = {}): Promise<void> {
    const budget = checkBudget(budgetBytes);
    // One after another: each starts from what the one before it holds.
    const resized = this.#resizing.then(() => this.#resize(budget, options.signal));
    this.#resizing = resized.catch(() => undefined);
    return resized;
  }

  async #resize(budget: number | null, signal?: AbortSignal): Promise<void> {
    const { core, reader } = this.#held();
    const request = { budget, held: core.prefix(), torn: false, signal };
    const grow = (): Promise<Holding> => hold(this.#module, this.#file, request, reader);
    let fresh: Holding;
    try {
      fresh = await grow();
    } catch (error) {
      // What a cache has beyond what is held may be damaged, or the server's was: try once more.
      if (!(error instanceof FormatError) || !(await this.#file.forget())) throw error;
      fresh = await grow();
    }
    this.#held(); // it may have been closed in between
    this.#holding = fresh;
  }

  /** Gives the memory back. Closing twice is fine. */
  close(): void {
    this.#holding = null;
  }

  // ---- recommending ----

  /**
   * The best items held for a user, without those of its history.
   *
   * Where no item of the history is held, the user is taken for the average one of the file's group;
   * where the file has no centroids to tell that by, for the average one of what is held, and
   * `userKnown` is false.
   *
   * @throws ArgumentError neither history nor user, an unknown item, a vector of wrong length or not
   *   finite, or `rotated` left out where the rows are rotated.
   */
  async recommend(options: RecommendOptions): Promise<UserRecommendations> {
    return this.#run((core) => {
      const history = this.#rows(core, "history", options.history ?? []);
      const leftOut = this.#rows(core, "exclude", options.exclude ?? []);
      const n = this.#count(core, options.n);
      const { user, known } = this.#user(core, options, options.history && history);
      const seen = [...history, ...leftOut];
      const { shipped } = options;
      const answer = (found: Scored) => ({ ...this.#found(core, found), userKnown: known });
      if (!shipped) return answer(core.score(user, seen, n));
      const rows = this.#rows(core, "shipped.items", shipped.items);
      checkDistinct("shipped.items", rows, shipped.items);
      const scores = checkFloats("shipped.scores", shipped.scores, rows.length);
      return answer(core.scoreWithShipped(user, seen, rows, scores, n));
    });
  }

  /** The n best items held for a user's vector, one that is rotated where the rows are. */
  async score(user: Vector, options: ScoreOptions = {}): Promise<Recommendations> {
    return this.#run((core) => {
      const vector = checkFloats("user", user, core.info.embeddingDim);
      const leftOut = this.#rows(core, "exclude", options.exclude ?? []);
      return this.#found(core, core.score(vector, leftOut, this.#count(core, options.n)));
    });
  }

  /** Scores of given items for a user; 0 for items not held. */
  async scoreItems(items: readonly Item[], options: UserOptions): Promise<Float32Array> {
    return this.#run((core) => {
      const history = options.history && this.#rows(core, "history", options.history);
      const { user } = this.#user(core, options, history);
      return core.scoreItems(user, this.#rows(core, "items", items));
    });
  }

  /**
   * The n items held that are most like one, by the cosine of their rows, without the item itself.
   *
   * @throws NotHeldError the item is not held.
   */
  async similar(item: Item, options: { n?: number } = {}): Promise<Recommendations> {
    return this.#run((core) => {
      const [row] = this.#rows(core, "item", [item]);
      const n = this.#count(core, options.n);
      try {
        return this.#found(core, core.similar(row!, n));
      } catch (error) {
        if (!(error instanceof NotHeldError)) throw error;
        throw new NotHeldError(`item ${shown(item)} is not held: a larger budget may hold it`);
      }
    });
  }

  // ---- vectors of users ----

  /** A user's vector from a history; zeros where none of it is held. */
  async foldIn(history: readonly Item[]): Promise<Float32Array> {
    return this.#run((core) => core.foldIn(this.#rows(core, "history", history)).user);
  }

  /**
   * A user's vector, made of `knownCount` items, brought up to date with new ones.
   *
   * @param user of length 1, shipped or folded in before, rotated where the rows are.
   * @param items the new ones. Where none of them is held the vector stays as it was.
   */
  async continueVector(
    user: Vector,
    knownCount: number,
    items: readonly Item[],
  ): Promise<Float32Array> {
    return this.#run((core) => {
      const vector = checkFloats("user", user, core.info.embeddingDim);
      const count = checkInteger("knownCount", knownCount, 0);
      return core.continueVector(vector, count, this.#rows(core, "items", items));
    });
  }

  /**
   * A vector of the model's space in that of the rows; as it is where the rows are not rotated.
   *
   * @throws FormatError the rows are rotated, and the file does not carry the rotation.
   */
  async rotate(vector: Vector): Promise<Float32Array> {
    return this.#run((core) => core.rotate(checkFloats("vector", vector, core.info.embeddingDim)));
  }

  /** The user group whose file suits a user's vector best, one that is rotated where the rows are. */
  async chooseGroup(user: Vector): Promise<number> {
    return this.#run((core) => core.chooseGroup(checkFloats("user", user, core.info.embeddingDim)));
  }

  // ---- ----

  #held(): Holding {
    if (!this.#holding) throw new ClosedError();
    return this.#holding;
  }

  /** Answers from what is held now; what it lacks behind the blocks is fetched first. */
  async #run<T>(f: (core: Core) => T, signal?: AbortSignal): Promise<T> {
    const { core, reader } = this.#held();
    return reader.attempt(
      () => f(core),
      (offset, count) => this.#file.load(offset, count, signal),
    );
  }

  #type(core: Core): ItemIdType {
    if (!this.#wantsIds) return "none";
    try {
      this.#itemIdType ??= core.itemIdType();
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      throw new FormatError(
        `${error.message}: whether it has item ids is not known; without them (itemIds: false) ` +
          "items go by row",
      );
    }
    return this.#itemIdType;
  }

  #rows(core: Core, name: string, items: readonly Item[]): number[] {
    if (!Array.isArray(items) && !ArrayBuffer.isView(items)) {
      throw new ArgumentError(`${name} must be an array of items, got ${shown(items)}`);
    }
    if (items.length === 0) return [];
    const type = this.#type(core);
    const { numEmbeddings } = core.info;
    if (type === "none") return Array.from(items, (item, i) => checkRow(`${name}[${i}]`, item, numEmbeddings));
    const texts = Array.from(items, (item) => textOf(item, type));
    const wanted = texts.filter((text) => text !== null);
    const rows = core.findRows(wanted);
    let at = 0;
    return texts.map((text, i) => {
      const row = text === null ? -1 : rows[at++]!;
      if (row >= 0) return row;
      const kind = type === "integer" ? "integers" : "text";
      throw new ArgumentError(
        `${name}[${i}] is not known: ids of this file are ${kind}, got ${shown(items[i])}`,
      );
    });
  }

  #found(core: Core, { rows, scores }: Scored): Recommendations {
    const type = this.#type(core);
    if (type === "none") return { items: rows, scores };
    const texts = rows.map((row) => core.itemText(row));
    return { items: type === "text" ? texts : texts.map(integerOf), scores };
  }

  #count(core: Core, n = 20): number {
    return Math.max(1, Math.min(checkInteger("n", n, 1), core.info.numEmbeddings));
  }

  /** The vector given, or that of a history, or that of an average user. */
  #user(
    core: Core,
    { user, rotated }: UserOptions,
    history: number[] | undefined,
  ): { user: Float32Array; known: boolean } {
    if (user !== undefined) {
      const vector = checkFloats("user", user, core.info.embeddingDim);
      if (rotated !== undefined && typeof rotated !== "boolean") {
        throw new ArgumentError(`rotated must be true or false, got ${shown(rotated)}`);
      }
      if (rotated === undefined && core.info.rotated) {
        throw new ArgumentError(
          "rotated must be given with user, because the rows of this file are rotated: true for a " +
            "vector that is rotated like them, false for one of the model's space",
        );
      }
      return { user: rotated === false ? core.rotate(vector) : vector, known: true };
    }
    if (!history) throw new ArgumentError("history or user must be given, got neither");
    const folded = core.foldIn(history);
    return folded.held > 0 ? { user: folded.user, known: true } : core.averageUser();
  }
}
