import { PeelError, Status, errorOf } from "./errors.js";
import type { Read } from "./pieces.js";

const MOST_BYTES = 2 ** 31 - 1;
const ERROR_BYTES = 272;

type Call = (...values: (number | bigint)[]) => number;

interface Exports {
  memory: WebAssembly.Memory;
  __wasm_call_ctors(): void;
  allocate(bytes: number): number;
  release(address: number): void;
  open(size: number, budget: number, handle: number, error: number): number;
  find_user(size: number, user: number, found: number, error: number): number;
  [name: `peel_${string}`]: Call;
}

/** Memory of the module for some bytes. */
export type Allocate = (bytes: number) => number;

/** An instance of the module with a memory of its own, and calls of the C interface in it. */
export class Instance {
  protected readonly exports: Exports;

  /** `onRead` is told where the module puts what it reads. */
  constructor(
    module: WebAssembly.Module,
    read: Read,
    onRead: (offset: number, address: number) => void = () => undefined,
  ) {
    // The module's own: 0 where the bytes are here.
    const readInto = (offset: number, count: number, address: number): number => {
      onRead(offset, address);
      return read(offset, new Uint8Array(this.exports.memory.buffer, address, count)) ? 0 : 1;
    };
    this.exports = new WebAssembly.Instance(module, { peel: { read: readInto } })
      .exports as unknown as Exports;
    this.exports.__wasm_call_ctors();
  }

  /** Runs f, and then releases what it allocated. */
  protected scratch<T>(f: (allocate: Allocate) => T): T {
    const addresses: number[] = [];
    try {
      return f((bytes) => {
        // Beyond, the module would take it for another number.
        if (bytes > MOST_BYTES) throw new PeelError(Status.MEMORY, "out of memory");
        const address = this.exports.allocate(Math.max(bytes, 1));
        if (address === 0) throw new PeelError(Status.MEMORY, "out of memory");
        addresses.push(address);
        return address;
      });
    } finally {
      for (const address of addresses) this.exports.release(address);
    }
  }

  /** Calls a function of the C interface, and throws what it says is wrong. */
  protected check(call: (error: number) => number): void {
    this.scratch((allocate) => {
      const error = allocate(ERROR_BYTES);
      const status = this.guarded(call, error);
      if (status === Status.OK) return;
      const message = this.bytes().subarray(error + 16, error + ERROR_BYTES);
      throw errorOf(
        status,
        decodeText(message.subarray(0, message.indexOf(0))),
        Number(this.view().getBigUint64(error + 8, true)),
      );
    });
  }

  private guarded(call: (error: number) => number, error: number): number {
    try {
      return call(error);
    } catch (trap) {
      if (!(trap instanceof WebAssembly.RuntimeError)) throw trap;
      throw new PeelError(Status.INTERNAL, `the module failed: ${trap.message}`, { cause: trap });
    }
  }

  protected bytes(): Uint8Array {
    return new Uint8Array(this.exports.memory.buffer);
  }

  protected view(): DataView {
    return new DataView(this.exports.memory.buffer);
  }
}

export function decodeText(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}
