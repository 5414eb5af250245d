// CRC-32 as in zlib (polynomial 0xedb88320, reflected), without zlib.
#pragma once

#include <cstdint>

namespace peel {

// The checksum of what `before` is the checksum of, followed by `size` more bytes; begins with 0.
uint32_t crc32(uint32_t before, const uint8_t* data, uint64_t size);

// The same on processors without carry-less products or an instruction for it.
uint32_t crc32_by_table(uint32_t before, const uint8_t* data, uint64_t size);

}  // namespace peel
