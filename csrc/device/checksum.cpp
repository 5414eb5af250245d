#include "device/checksum.h"

#include <array>
#include <cstring>

namespace peel {
namespace {

constexpr int kSlices = 16;  // bytes taken at once (Kounavis and Berry, 2008)
using Tables = std::array<std::array<uint32_t, 256>, kSlices>;

constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0xedb88320u : 0);
    tables[0][byte] = value;
  }
  for (size_t slice = 1; slice < kSlices; ++slice) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t shorter = tables[slice - 1][byte];
      tables[slice][byte] = (shorter >> 8) ^ tables[0][shorter & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

}  // namespace

uint32_t crc32(uint32_t before, const uint8_t* data, uint64_t size) {
  uint32_t value = ~before;
  for (; size >= kSlices; size -= kSlices, data += kSlices) {
    uint32_t words[kSlices / 4];
    std::memcpy(words, data, kSlices);
    words[0] ^= value;
    value = 0;
    for (size_t at = 0; at < kSlices; ++at) {
      value ^= kTables[kSlices - 1 - at][(words[at / 4] >> (8 * (at % 4))) & 0xff];
    }
  }
  for (; size > 0; --size, ++data) value = (value >> 8) ^ kTables[0][(value ^ *data) & 0xff];
  return ~value;
}

}  // namespace peel
