import type { UserFile } from "./core.js";
import { ArgumentError, FormatError, PeelError, SourceError } from "./errors.js";
import { Pieces, type Piece } from "./pieces.js";

const HEADER_BYTES = 64;
const ALIGNMENT = 64;
/** Where the header has the end of the last block, in {@link ALIGNMENT}, and its own checksum. */
const BLOCKS_END_AT = 44;
const CHECKSUM_AT = 60;
/** Of a bundle, at once: its header, and what is there of the index. */
const BUNDLE_START_BYTES = 8192;
const MOST_BUNDLES = 16;

/** The first bytes of bundles that users were found in, by URL: the next user's need not come again. */
const bundles = new Map<string, { total: number; tag: string; start: Uint8Array }>();

/** What of a `Cache` is needed to keep files: that of a browser, or one that a program brings. */
export interface FileCache {
  match(url: string): Promise<Response | undefined>;
  put(url: string, response: Response): Promise<unknown>;
  delete(url: string): Promise<unknown>;
}

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
  prepare(request: Request): Promise<Prepared>;
  /** The bytes [offset, offset + count), or more. */
  load(offset: number, count: number, signal?: AbortSignal): Promise<Piece>;
  /** Keeps in the cache what was fetched. */
  store(pieces: Pieces): Promise<void>;
  /** Drops what the cache has, which is damaged; false where that was not the source. */
  forget(): Promise<boolean>;
}

interface Request {
  budget: number | null;
  /** The first bytes of the file, held already. */
  held?: Uint8Array;
  torn: boolean;
  signal?: AbortSignal | undefined;
}

interface Prepared {
  pieces: Pieces;
  budget: number | null;
}

/** A user of a bundle, and how to find its file from the bytes that a function reads. */
export interface BundleUser {
  readonly id: string;
  find(read: (offset: number, into: Uint8Array) => boolean, size: number): UserFile;
}

/**
 * Finds a user's file, from bytes that are here or that `load` fetches.
 *
 * @param pieces of the bundle; what is fetched is added.
 */
async function findIn(
  user: BundleUser,
  size: number,
  pieces: Pieces,
  load: (offset: number, count: number) => Promise<Uint8Array>,
): Promise<UserFile> {
  for (;;) {
    let missing: { offset: number; count: number } | null = null;
    try {
      return user.find((offset, into) => {
        if (pieces.read(offset, into)) return true;
        missing = { offset, count: into.length };
        return false;
      }, size);
    } catch (error) {
      // Only the function sets it, which the compiler does not see.
      const wanted = missing as { offset: number; count: number } | null;
      if (!(error instanceof SourceError) || !wanted) throw error;
      const bytes = await load(wanted.offset, wanted.count);
      pieces.add({ offset: wanted.offset, bytes });
    }
  }
}

/** Bytes that have arrived of a user's file; what the index says of it must be so. */
function checkUserFile(file: UserFile, bundleSize: number, start: Uint8Array): number {
  const size = Math.min(file.size, Math.max(0, bundleSize - file.offset));
  if (size < HEADER_BYTES || start.length < HEADER_BYTES) {
    throw new FormatError(`cut short: ${bundleSize} bytes, the user's file has not arrived`);
  }
  const view = new DataView(start.buffer, start.byteOffset);
  const end = ALIGNMENT * view.getUint32(BLOCKS_END_AT, true);
  if (end !== file.blocksEnd || view.getUint32(CHECKSUM_AT, true) !== file.headerChecksum) {
    throw new FormatError(
      `damaged: the file at byte ${file.offset} of the bundle is not the one that the index means`,
    );
  }
  return size;
}

/** A user's file in a bundle that is in memory. */
export async function userBytes(bytes: Uint8Array, user: BundleUser): Promise<Uint8Array> {
  const pieces = new Pieces({ offset: 0, bytes });
  const file = await findIn(user, bytes.length, pieces, async () => new Uint8Array());
  const part = bytes.subarray(file.offset, file.offset + file.size);
  return part.subarray(0, checkUserFile(file, bytes.length, part));
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

  async prepare({ budget }: Request): Promise<Prepared> {
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

/** What a cache has of a file. */
interface Stored {
  size: number;
  /** Where it begins in the bundle that it is of, and the bundle's bytes; else 0 and its own. */
  begin: number;
  total: number;
  tag: string;
  /** The first bytes of the file. */
  start: Uint8Array;
  /** All that lies behind the blocks, or nothing. */
  tail: Uint8Array;
}

/** A file on an HTTP server that answers range requests: only what is asked for is fetched. */
export class HttpFile implements PeelFile {
  size = 0;
  failure: SourceError | null = null;
  #url: URL;
  #cache: FileCache | null;
  #user: string | null;
  #tag = "";
  /** Of what the server has: where this file begins in it, and all its bytes. */
  #begin = 0;
  #total = 0;
  /** The first bytes of the file, at least the header where it has one. */
  #start: Uint8Array = new Uint8Array();
  #tail: Uint8Array = new Uint8Array();
  /** Whether something came that the cache has not. */
  #fresh = false;

  private constructor(url: URL, cache: FileCache | null, user: string | null) {
    this.#url = url;
    this.#cache = cache;
    this.#user = user;
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
    const file = new HttpFile(url, cache, user?.id ?? null);
    try {
      if (user) await file.#openUser(user, cache ? 0 : (budget ?? Infinity), signal);
      else {
        file.#start = await file.#fetch(0, HEADER_BYTES, signal);
        file.size = file.#total;
      }
    } catch (error) {
      const stored = error instanceof Unreachable ? await file.#readCache() : null;
      if (!stored) throw error;
      file.failure = error as Unreachable;
      [file.size, file.#begin, file.#total] = [stored.size, stored.begin, stored.total];
      file.#tag = stored.tag;
      file.#start = stored.start.slice(0, HEADER_BYTES);
    }
    return file;
  }

  async #openUser(user: BundleUser, wanted: number, signal?: AbortSignal): Promise<void> {
    const stored = await this.#readCache();
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
    const pieces = new Pieces({ offset: 0, bytes: bundleStart });
    const load = (offset: number, count: number): Promise<Uint8Array> =>
      this.#fetch(offset, count, signal);
    const found = await findIn(user, this.#total, pieces, load);
    const count = Math.max(HEADER_BYTES, Math.min(wanted, found.blocksEnd));
    const there = Math.max(0, this.#total - found.offset);
    const start = there ? await load(found.offset, Math.min(count, there)) : new Uint8Array();
    this.size = checkUserFile(found, this.#total, start);
    this.#begin = found.offset;
    this.#start = start;
    this.#fresh = start.length > HEADER_BYTES;
  }

  async prepare({ budget, held, torn, signal }: Request): Promise<Prepared> {
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
    const body = new Uint8Array(start.length + tail.length);
    body.set(start);
    body.set(tail, start.length);
    const headers = {
      "peel-size": String(this.size),
      "peel-begin": String(this.#begin),
      "peel-total": String(this.#total),
      "peel-start": String(start.length),
      "peel-tag": encodeURIComponent(this.#tag),
    };
    await this.#withCache((cache) => cache.put(this.#key, new Response(body, { headers })));
    this.#fresh = false;
  }

  async forget(): Promise<boolean> {
    const stored = await this.#stored();
    this.#tail = new Uint8Array();
    if (stored) await this.#withCache((cache) => cache.delete(this.#key));
    return stored !== null;
  }

  get #blocksEnd(): number {
    if (this.#start.length < HEADER_BYTES) return this.size;
    const view = new DataView(this.#start.buffer, this.#start.byteOffset);
    return Math.min(ALIGNMENT * view.getUint32(BLOCKS_END_AT, true), this.size);
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

  /** Of this file in the cache; a fragment would not tell it from the file's own entry. */
  get #key(): string {
    const key = new URL(this.#url);
    key.searchParams.set("peel-cache", "1");
    if (this.#user !== null) key.searchParams.set("peel-user", this.#user);
    key.hash = "";
    return key.href;
  }

  /** What the cache has of the very file that is open. */
  async #stored(): Promise<Stored | null> {
    const stored = await this.#readCache();
    const same =
      stored?.size === this.size &&
      stored.tag === this.#tag &&
      stored.total === this.#total &&
      this.#start.subarray(0, HEADER_BYTES).every((byte, i) => byte === stored.start[i]);
    return same ? stored : null;
  }

  async #readCache(): Promise<Stored | null> {
    return this.#withCache(async (cache) => {
      const response = await cache.match(this.#key);
      if (!response) return null;
      const bytes = new Uint8Array(await response.arrayBuffer());
      const start = Number(response.headers.get("peel-start"));
      const size = Number(response.headers.get("peel-size"));
      return {
        size,
        begin: Number(response.headers.get("peel-begin") ?? 0),
        total: Number(response.headers.get("peel-total") ?? size),
        tag: decodeURIComponent(response.headers.get("peel-tag") ?? ""),
        start: bytes.subarray(0, start),
        tail: bytes.subarray(start),
      };
    });
  }

  async #withCache<T>(f: (cache: FileCache) => Promise<T>): Promise<T | null> {
    if (!this.#cache) return null;
    try {
      return await f(this.#cache);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new SourceError(`the cache fails: ${reason}`, { cause: error });
    }
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

/** The cache that an option names. */
export async function openCache(cache: string | FileCache | undefined): Promise<FileCache | null> {
  if (cache === undefined) return null;
  if (typeof cache !== "string") return cache;
  if (typeof caches === "undefined") {
    throw new ArgumentError(
      "cache is a name, but there is no Cache Storage here: it is for secure pages and their " +
        "workers; elsewhere, give an object with match, put and delete",
    );
  }
  try {
    return await caches.open(cache);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new SourceError(`the cache fails: ${reason}`, { cause: error });
  }
}
