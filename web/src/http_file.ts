import { findFile, checkUserFile, type BundleUser } from "./bundle.js";
import { CacheEntry, type FileCache, type Stored } from "./cache.js";
import { ArgumentError, PeelError, SourceError } from "./errors.js";
import type { HoldRequest, PeelFile, Prepared } from "./file.js";
import { HEADER_BYTES, blocksEndOf } from "./header.js";
import { Pieces, type Piece } from "./pieces.js";

/** Of a bundle, at once: its header, and what is there of the index. */
const BUNDLE_START_BYTES = 8192;
const MOST_BUNDLES = 16;

/** The first bytes of bundles that users were found in, by URL: the next user's need not come again. */
const bundles = new Map<string, { total: number; tag: string; start: Uint8Array }>();

/** The network failed: without a cache this is what a caller sees. */
class Unreachable extends SourceError {
  /** What came before it failed. */
  readonly arrived: Uint8Array;

  constructor(message: string, arrived: Uint8Array, cause: unknown) {
    super(message, { cause });
    this.name = "SourceError";
    this.arrived = arrived;
  }
}

/** A file on an HTTP server that answers range requests: only what is asked for is fetched. */
export class HttpFile implements PeelFile {
  size = 0;
  failure: SourceError | null = null;
  #url: URL;
  #cache: CacheEntry | null;
  #tag = "";
  /** Of what the server has: where this file begins in it, and all its bytes. */
  #begin = 0;
  #total = 0;
  /** The first bytes of the file, at least the header where it has one. */
  #start: Uint8Array = new Uint8Array();
  #tail: Uint8Array = new Uint8Array();
  /** Whether something came that the cache has not. */
  #fresh = false;

  private constructor(url: URL, cache: CacheEntry | null) {
    this.#url = url;
    this.#cache = cache;
  }

  /**
   * Asks the server for the file's header, or the cache where there is no server. With a user, its
   * file in the bundle that the server has: where there is no cache, the budget's bytes at once.
   */
  static async open(
    url: URL,
    cache: FileCache | null,
    user: BundleUser | null,
    budget: number | null,
    signal?: AbortSignal,
  ): Promise<HttpFile> {
    if (url.username || url.password) {
      throw new ArgumentError("the URL has a user name or a password, which fetch does not allow");
    }
    const file = new HttpFile(url, cache && new CacheEntry(cache, url, user?.id ?? null));
    try {
      if (user) await file.#openUser(user, cache ? 0 : (budget ?? Infinity), signal);
      else {
        file.#start = await file.#fetch(0, HEADER_BYTES, signal);
        file.size = file.#total;
      }
    } catch (error) {
      const stored = error instanceof Unreachable ? await file.#cached() : null;
      if (!stored) throw error;
      file.failure = error as Unreachable;
      [file.size, file.#begin, file.#total] = [stored.size, stored.begin, stored.total];
      file.#tag = stored.tag;
      file.#start = stored.start.slice(0, HEADER_BYTES);
    }
    return file;
  }

  async #openUser(user: BundleUser, wanted: number, signal?: AbortSignal): Promise<void> {
    const stored = await this.#cached();
    if (stored?.tag && (await this.#try(() => this.#openStored(stored, signal), signal))) return;
    const known = bundles.get(this.#url.href);
    if (known) {
      [this.#total, this.#tag] = [known.total, known.tag];
      if (await this.#try(() => this.#find(user, known.start, wanted, signal), signal)) return;
    }
    const start = await this.#fetch(0, BUNDLE_START_BYTES, signal);
    await this.#find(user, start, wanted, signal);
    bundles.delete(this.#url.href);
    if (this.#tag) bundles.set(this.#url.href, { total: this.#total, tag: this.#tag, start });
    if (bundles.size > MOST_BUNDLES) bundles.delete(bundles.keys().next().value!);
  }

  /** Opens from what is known of a bundle; false where it has changed, as far as can be told. */
  async #try(open: () => Promise<void>, signal?: AbortSignal): Promise<boolean> {
    try {
      await open();
      return true;
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof PeelError) || error instanceof Unreachable) throw error;
      [this.#begin, this.#total, this.#tag] = [0, 0, ""];
      return false;
    }
  }

  /** Opens the file that the cache has the first bytes of, where the bundle is as it was. */
  async #openStored({ begin, size, total, tag }: Stored, signal?: AbortSignal): Promise<void> {
    this.#begin = begin;
    this.#start = await this.#fetch(0, HEADER_BYTES, signal);
    if (this.#total !== total || this.#tag !== tag) throw new SourceError("another bundle");
    this.size = size;
  }

  /** Finds a user's file, and fetches the first bytes of it. */
  async #find(
    user: BundleUser,
    bundleStart: Uint8Array,
    wanted: number,
    signal?: AbortSignal,
  ): Promise<void> {
    const load = (offset: number, count: number): Promise<Uint8Array> =>
      this.#fetch(offset, count, signal);
    const found = await findFile(user, this.#total, bundleStart, load);
    const count = Math.max(HEADER_BYTES, Math.min(wanted, found.blocksEnd));
    const there = Math.max(0, this.#total - found.offset);
    const start = there ? await load(found.offset, Math.min(count, there)) : new Uint8Array();
    this.size = checkUserFile(found, this.#total, start);
    this.#begin = found.offset;
    this.#start = start;
    this.#fresh = start.length > HEADER_BYTES;
  }

  async prepare({ budget, held, torn, signal }: HoldRequest): Promise<Prepared> {
    const pieces = new Pieces({ offset: 0, bytes: this.#start });
    if (held) pieces.add({ offset: 0, bytes: held });
    const end = Math.min(this.#blocksEnd, budget ?? Infinity);
    if (pieces.endFrom(0) < end) {
      const stored = await this.#stored();
      if (stored) pieces.add({ offset: 0, bytes: stored.start });
    }
    const there = pieces.endFrom(0);
    if (there >= end) return { pieces, budget };
    try {
      pieces.add({ offset: there, bytes: await this.#fetch(there, end - there, signal) });
      this.failure = null;
      return { pieces, budget };
    } catch (error) {
      if (!(error instanceof Unreachable) || !this.#cache) throw error;
      pieces.add({ offset: there, bytes: error.arrived });
      await this.store(pieces);
      if (!torn) throw error;
      this.failure = error;
      return { pieces, budget: pieces.endFrom(0) };
    }
  }

  async load(offset: number, count: number, signal?: AbortSignal): Promise<Piece> {
    const end = this.#blocksEnd;
    if (offset < end) return { offset, bytes: await this.#fetch(offset, count, signal) };
    if (!this.#tail.length) {
      const stored = await this.#stored();
      if (stored?.tail.length) {
        this.#tail = stored.tail;
      } else {
        this.#tail = await this.#fetch(end, this.size - end, signal);
        await this.store(new Pieces());
      }
    }
    return { offset: end, bytes: this.#tail };
  }

  async store(pieces: Pieces): Promise<void> {
    if (!this.#cache || !this.#fresh) return;
    const stored = await this.#stored();
    const fresh = new Uint8Array(Math.min(pieces.endFrom(0), this.#blocksEnd));
    pieces.read(0, fresh);
    const start = stored && stored.start.length > fresh.length ? stored.start : fresh;
    const tail = this.#tail.length ? this.#tail : (stored?.tail ?? this.#tail);
    if (!start.length) return;
    const { size } = this;
    const [begin, total, tag] = [this.#begin, this.#total, this.#tag];
    await this.#cache.write({ size, begin, total, tag, start, tail });
    this.#fresh = false;
  }

  async forget(): Promise<boolean> {
    const stored = await this.#stored();
    this.#tail = new Uint8Array();
    if (stored) await this.#cache!.delete();
    return stored !== null;
  }

  get #blocksEnd(): number {
    if (this.#start.length < HEADER_BYTES) return this.size;
    return Math.min(blocksEndOf(this.#start), this.size);
  }

  // ---- the server ----

  /** The bytes [offset, offset + count), as far as the file has them; at first, the server's. */
  async #fetch(offset: number, count: number, signal?: AbortSignal): Promise<Uint8Array> {
    const first = this.#total === 0;
    const from = this.#begin + offset;
    const chunks: Uint8Array[] = [];
    let response: Response | null = null;
    try {
      response = await fetch(this.#url, {
        headers: { Range: `bytes=${from}-${from + count - 1}` },
        cache: "no-store", // what is to be kept, is kept in the cache given
        signal: signal ?? null,
      });
      const told = this.#check(response, from, first);
      if (first) [this.#total, this.#tag] = told;
      const reader = response.body!.getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        chunks.push(part.value);
      }
    } catch (error) {
      if (error instanceof SourceError) throw error;
      signal?.throwIfAborted();
      const reason = error instanceof Error ? error.message : String(error);
      this.#fresh ||= chunks.length > 0;
      throw new Unreachable(`${this.#url.href}: cannot be read: ${reason}`, joined(chunks), error);
    }
    const bytes = joined(chunks);
    const wanted = Math.min(count, this.#total - from);
    if (bytes.length !== wanted) {
      throw new SourceError(`${this.#url.href}: ${bytes.length} bytes came, expected ${wanted}`);
    }
    this.#fresh ||= !first;
    return bytes;
  }

  /** The size and the tag of the file, once it is sure that this answers the request. */
  #check(response: Response, offset: number, first: boolean): [number, string] {
    const fail = (what: string): never => {
      void response.body?.cancel();
      throw new SourceError(`${this.#url.href}: ${what}`);
    };
    if (!response.ok) fail(`the server answers ${response.status}`);
    if (response.status !== 206) {
      fail(`the server answers no ranges (${response.status} to a range request)`);
    }
    const range = response.headers.get("Content-Range");
    if (range === null) {
      fail("Content-Range is not to be seen: a server of another origin has to expose it");
    }
    const parts = /^bytes (\d+)-\d+\/(\d+)$/.exec(range!);
    if (!parts || Number(parts[1]) !== offset) {
      fail(`Content-Range '${range}' does not say what was sent`);
    }
    const size = Number(parts![2]);
    const tag = response.headers.get("ETag") ?? response.headers.get("Last-Modified") ?? "";
    if (!first && (size !== this.#total || tag !== this.#tag)) {
      fail("the server has another file than the one opened");
    }
    return [size, tag];
  }

  // ---- the cache ----

  /** What the cache has of the very file that is open. */
  async #stored(): Promise<Stored | null> {
    const stored = await this.#cached();
    const same =
      stored?.size === this.size &&
      stored.tag === this.#tag &&
      stored.total === this.#total &&
      this.#start.subarray(0, HEADER_BYTES).every((byte, i) => byte === stored.start[i]);
    return same ? stored : null;
  }

  async #cached(): Promise<Stored | null> {
    return this.#cache ? this.#cache.read() : null;
  }
}

function joined(chunks: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}
