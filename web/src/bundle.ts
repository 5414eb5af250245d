import { FormatError } from "./errors.js";
import { HEADER_BYTES, blocksEndOf, checksumOf } from "./header.js";
import { Instance } from "./instance.js";
import { Pieces, Reader, type Read } from "./pieces.js";

const USER_FILE_BYTES = 32;

/** Where a user's file lies in a bundle, and what its header says. */
export interface UserFile {
  readonly offset: number;
  readonly size: number;
  readonly blocksEnd: number;
  readonly headerChecksum: number;
}

/** Finds users in a bundle. */
class Finder extends Instance {
  find(size: number, user: string): UserFile {
    return this.scratch((allocate) => {
      const text = new TextEncoder().encode(user + "\0");
      const id = allocate(text.length);
      this.bytes().set(text, id);
      const found = allocate(USER_FILE_BYTES);
      this.check((error) => this.exports.find_user(size, id, found, error));
      const view = this.view();
      const at = (index: number): number => Number(view.getBigUint64(found + 8 * index, true));
      return {
        offset: at(0),
        size: at(1),
        blocksEnd: at(2),
        headerChecksum: view.getUint32(found + 24, true),
      };
    });
  }
}

/** A user of a bundle, and how to find its file from the bytes that a function reads. */
export interface BundleUser {
  readonly id: string;
  /** @throws PeelError with the status and the message of the C interface. */
  find(read: Read, size: number): UserFile;
}

export function bundleUser(id: string, module: WebAssembly.Module): BundleUser {
  return { id, find: (read, size) => new Finder(module, read).find(size, id) };
}

/** Finds a user's file in a bundle of `size` bytes, from its first ones and what `load` fetches. */
export async function findFile(
  user: BundleUser,
  size: number,
  start: Uint8Array,
  load: (offset: number, count: number) => Promise<Uint8Array>,
): Promise<UserFile> {
  const reader = new Reader(new Pieces({ offset: 0, bytes: start }));
  return reader.attempt(
    () => user.find(reader.read, size),
    async (offset, count) => ({ offset, bytes: await load(offset, count) }),
  );
}

/** The size of a user's file as far as it has arrived; what the index says of it must be so. */
export function checkUserFile(file: UserFile, bundleSize: number, start: Uint8Array): number {
  const size = Math.min(file.size, Math.max(0, bundleSize - file.offset));
  if (size < HEADER_BYTES || start.length < HEADER_BYTES) {
    throw new FormatError(`cut short: ${bundleSize} bytes, the user's file has not arrived`);
  }
  if (blocksEndOf(start) !== file.blocksEnd || checksumOf(start) !== file.headerChecksum) {
    throw new FormatError(
      `damaged: the file at byte ${file.offset} of the bundle is not the one that the index means`,
    );
  }
  return size;
}

/** A user's file in a bundle that is in memory. */
export async function userBytes(bytes: Uint8Array, user: BundleUser): Promise<Uint8Array> {
  const file = await findFile(user, bytes.length, bytes, async () => new Uint8Array());
  const part = bytes.subarray(file.offset, file.offset + file.size);
  return part.subarray(0, checkUserFile(file, bytes.length, part));
}
