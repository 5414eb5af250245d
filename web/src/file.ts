import { ArgumentError, SourceError } from "./errors.js";
import { Pieces, type Piece } from "./pieces.js";

const HEADER_BYTES = 64;
const ALIGNMENT = 64;
/** Where the header has the end of the last block, in {@link ALIGNMENT}. */
const BLOCKS_END_AT = 44;

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
  #tag = "";
  #header: Uint8Array = new Uint8Array();
  #tail: Uint8Array = new Uint8Array();
  /** Whether something came that the cache has not. */
  #fresh = false;

  private constructor(url: URL, cache: FileCache | null) {
    this.#url = url;
    this.#cache = cache;
  }

  /** Asks the server for the file's header, or the cache where there is no server. */
  static async open(url: URL, cache: FileCache | null, signal?: AbortSignal): Promise<HttpFile> {
    if (url.username || url.password) {
      throw new ArgumentError("the URL has a user name or a password, which fetch does not allow");
    }
    const file = new HttpFile(url, cache);
    try {
      file.#header = await file.#fetch(0, HEADER_BYTES, signal);
    } catch (error) {
      const stored = error instanceof Unreachable ? await file.#readCache() : null;
      if (!stored) throw error;
      file.failure = error as Unreachable;
      file.size = stored.size;
      file.#tag = stored.tag;
      file.#header = stored.start.slice(0, HEADER_BYTES);
    }
    return file;
  }

  async prepare({ budget, held, torn, signal }: Request): Promise<Prepared> {
    const pieces = new Pieces({ offset: 0, bytes: this.#header });
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
    if (this.#header.length < HEADER_BYTES) return this.size;
    const view = new DataView(this.#header.buffer, this.#header.byteOffset);
    return Math.min(ALIGNMENT * view.getUint32(BLOCKS_END_AT, true), this.size);
  }

  // ---- the server ----

  /** The bytes [offset, offset + count), as far as the file has them. */
  async #fetch(offset: number, count: number, signal?: AbortSignal): Promise<Uint8Array> {
    const first = this.#header.length === 0;
    const chunks: Uint8Array[] = [];
    let response: Response | null = null;
    try {
      response = await fetch(this.#url, {
        headers: { Range: `bytes=${offset}-${offset + count - 1}` },
        cache: "no-store", // what is to be kept, is kept in the cache given
        signal: signal ?? null,
      });
      const told = this.#check(response, offset, first);
      if (first) [this.size, this.#tag] = told;
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
    const wanted = Math.min(count, this.size - offset);
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
    if (!first && (size !== this.size || tag !== this.#tag)) {
      fail("the server has another file than the one opened");
    }
    return [size, tag];
  }

  // ---- the cache ----

  /** Of this file in the cache; a fragment would not tell it from the file's own entry. */
  get #key(): string {
    const key = new URL(this.#url);
    key.searchParams.set("peel-cache", "1");
    key.hash = "";
    return key.href;
  }

  /** What the cache has of the very file that is open. */
  async #stored(): Promise<Stored | null> {
    const stored = await this.#readCache();
    const same =
      stored?.size === this.size &&
      stored.tag === this.#tag &&
      this.#header.every((byte, i) => byte === stored.start[i]);
    return same ? stored : null;
  }

  async #readCache(): Promise<Stored | null> {
    return this.#withCache(async (cache) => {
      const response = await cache.match(this.#key);
      if (!response) return null;
      const bytes = new Uint8Array(await response.arrayBuffer());
      const start = Number(response.headers.get("peel-start"));
      return {
        size: Number(response.headers.get("peel-size")),
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
