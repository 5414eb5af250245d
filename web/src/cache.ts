import { shown } from "./arguments.js";
import { ArgumentError, SourceError } from "./errors.js";

/** What of a `Cache` is needed to keep files: that of a browser, or one that a program brings. */
export interface FileCache {
  match(url: string): Promise<Response | undefined>;
  put(url: string, response: Response): Promise<unknown>;
  delete(url: string): Promise<unknown>;
}

/** What a cache has of a file. */
export interface Stored {
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

/** The one entry that a cache has of a file. */
export class CacheEntry {
  #cache: FileCache;
  #key: string;

  /** `user`: the one whose file it is, where the URL is that of a bundle. */
  constructor(cache: FileCache, url: URL, user: string | null) {
    this.#cache = cache;
    // A fragment would not tell it from the entry that a page has of the URL itself.
    const key = new URL(url);
    key.searchParams.set("peel-cache", "1");
    if (user !== null) key.searchParams.set("peel-user", user);
    key.hash = "";
    this.#key = key.href;
  }

  async read(): Promise<Stored | null> {
    return sourceErrors(async () => {
      const response = await this.#cache.match(this.#key);
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

  async write({ size, begin, total, tag, start, tail }: Stored): Promise<void> {
    const body = new Uint8Array(start.length + tail.length);
    body.set(start);
    body.set(tail, start.length);
    const headers = {
      "peel-size": String(size),
      "peel-begin": String(begin),
      "peel-total": String(total),
      "peel-start": String(start.length),
      "peel-tag": encodeURIComponent(tag),
    };
    await sourceErrors(() => this.#cache.put(this.#key, new Response(body, { headers })));
  }

  async delete(): Promise<void> {
    await sourceErrors(() => this.#cache.delete(this.#key));
  }
}

/** What f gives; where the cache fails, that is a {@link SourceError}. */
async function sourceErrors<T>(f: () => Promise<T>): Promise<T> {
  try {
    return await f();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new SourceError(`the cache fails: ${reason}`, { cause: error });
  }
}

/** The cache that an option names. */
export async function openCache(cache: string | FileCache | undefined): Promise<FileCache | null> {
  if (cache === undefined) return null;
  if (typeof cache === "object" && typeof cache.match === "function") return cache;
  if (typeof cache !== "string") {
    throw new ArgumentError(
      `cache must be a name, or an object with match, put and delete, got ${shown(cache)}`,
    );
  }
  if (typeof caches === "undefined") {
    throw new ArgumentError(
      "cache is a name, but there is no Cache Storage here: it is for secure pages and their " +
        "workers; elsewhere, give an object with match, put and delete",
    );
  }
  return sourceErrors(() => caches.open(cache));
}
