export const HEADER_BYTES = 64;
const ALIGNMENT = 64;
const BLOCKS_END_AT = 44;
const CHECKSUM_AT = 60;

/** Where the last block of a file ends, as its header says. */
export function blocksEndOf(header: Uint8Array): number {
  return ALIGNMENT * viewOf(header).getUint32(BLOCKS_END_AT, true);
}

/** The checksum of a header, as it says itself. */
export function checksumOf(header: Uint8Array): number {
  return viewOf(header).getUint32(CHECKSUM_AT, true);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset);
}
