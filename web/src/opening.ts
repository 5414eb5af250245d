import { checkUserId, shown } from "./arguments.js";
import { bundleUser, userBytes } from "./bundle.js";
import { openCache } from "./cache.js";
import { Core } from "./core.js";
import { ArgumentError, BudgetError } from "./errors.js";
import { BufferFile, type HoldRequest, type PeelFile } from "./file.js";
import { HttpFile } from "./http_file.js";
import type { OpenOptions } from "./options.js";
import { Pieces, Reader } from "./pieces.js";

/** What answers at one moment: a core, and the bytes behind its blocks that came so far. */
export interface Holding {
  readonly core: Core;
  readonly reader: Reader;
}

/** Where the bytes are that a program names. */
export async function openFile(
  file: string | URL | ArrayBuffer | ArrayBufferView,
  { cache, signal, user }: OpenOptions,
  budget: number | null,
  module: WebAssembly.Module,
): Promise<PeelFile> {
  const whose = user === undefined ? null : bundleUser(checkUserId(user), module);
  if (typeof file === "string" || file instanceof URL) {
    const base = typeof location === "undefined" ? undefined : location.href;
    if (!URL.canParse(file, base)) throw new ArgumentError(`file must be a URL, got ${shown(file)}`);
    return HttpFile.open(new URL(file, base), await openCache(cache), whose, budget, signal);
  }
  if (cache !== undefined) throw new ArgumentError("cache is for files on a server, got bytes");
  if (!(file instanceof ArrayBuffer || ArrayBuffer.isView(file))) {
    throw new ArgumentError(`file must be a URL or bytes, got ${shown(file)}`);
  }
  const bytes =
    file instanceof ArrayBuffer
      ? new Uint8Array(file)
      : new Uint8Array(file.buffer, file.byteOffset, file.byteLength);
  return new BufferFile(whose ? await userBytes(bytes, whose) : bytes);
}

/** Opens a core under a budget, and keeps what was fetched for it. */
export async function hold(
  module: WebAssembly.Module,
  file: PeelFile,
  request: HoldRequest,
  before?: Reader,
): Promise<Holding> {
  const { pieces, budget } = await file.prepare(request);
  const reader = new Reader(pieces);
  let core: Core;
  try {
    core = await reader.attempt(
      () => new Core(module, reader.read, file.size, budget),
      (offset, count) => file.load(offset, count, request.signal),
    );
  } catch (error) {
    if (!(error instanceof BudgetError)) throw error;
    // What has arrived is too little, which no budget mends.
    if (budget !== request.budget) throw file.failure;
    const least = error.minimumBytes;
    throw new BudgetError(
      `budgetBytes is ${budget}, but this file needs at least ${least} bytes`,
      least,
    );
  }
  await file.store(pieces);
  reader.pieces = before?.pieces ?? new Pieces(); // the core has its bytes
  return { core, reader };
}
