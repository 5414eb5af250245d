#include <string>
#include <vector>

#include "check.h"
#include "device/checksum.h"

namespace {

// Bit by bit, as the polynomial has it.
uint32_t plain(uint32_t before, const uint8_t* data, uint64_t size) {
  uint32_t value = ~before;
  for (uint64_t i = 0; i < size; ++i) {
    value ^= data[i];
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0xedb88320u : 0);
  }
  return ~value;
}

}  // namespace

int main() {
  std::mt19937_64 random = seeded();
  const std::string known = "123456789";
  CHECK(peel::crc32(0, reinterpret_cast<const uint8_t*>(known.data()), 9) == 0xcbf43926u);
  std::vector<uint8_t> data(1100);
  for (auto& byte : data) byte = static_cast<uint8_t>(random());
  for (uint64_t begin = 0; begin < 20; ++begin) {
    // All sizes up to the vectors' first rounds, and some of many rounds.
    for (uint64_t size = 0; size + begin <= data.size(); size += size < 600 ? 1 : 37) {
      const auto before = static_cast<uint32_t>(random());
      const uint32_t expected = plain(before, data.data() + begin, size);
      CHECK(peel::crc32(before, data.data() + begin, size) == expected);
      CHECK(peel::crc32_by_table(before, data.data() + begin, size) == expected);
    }
  }
  const uint32_t first = peel::crc32(0, data.data(), 100);
  CHECK(peel::crc32(first, data.data() + 100, 200) == peel::crc32(0, data.data(), 300));
}
