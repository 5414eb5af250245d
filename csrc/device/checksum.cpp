#include "device/checksum.h"

#include <array>
#include <cstring>

#include "core/processor.h"

#if defined(PEEL_X86)
#include <immintrin.h>
#elif defined(PEEL_ARM64) && defined(__linux__)
#include <sys/auxv.h>
#endif

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

uint32_t take_bytes(uint32_t value, const uint8_t* data, uint64_t size) {
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
  return value;
}

#if defined(PEEL_X86)

// x^n modulo the polynomial, reflected, and moved by the bit that a product of reflected words is
// short of.
constexpr int64_t power(int n) {
  uint32_t value = 0x80000000u;
  for (; n > 0; --n) value = (value >> 1) ^ (value & 1 ? 0xedb88320u : 0);
  return static_cast<int64_t>(uint64_t{value} << 1);
}

bool can_fold() { return processor().carryless_product; }

// What 16 bytes are worth `bits` bits further on, where `powers` are of bits + 32 and bits - 32.
__attribute__((target("pclmul,sse4.1"))) inline __m128i move_on(__m128i bytes, __m128i powers) {
  return _mm_xor_si128(_mm_clmulepi64_si128(bytes, powers, 0x00),
                       _mm_clmulepi64_si128(bytes, powers, 0x11));
}

// Folds 64 bytes at a time into the next 64, the last of them into 16, which have the remainder of
// all that came before (Gopal et al., 2009). At least 64 bytes; returns how many it took.
__attribute__((target("pclmul,sse4.1"))) uint64_t fold(uint32_t* value, const uint8_t* data,
                                                       uint64_t size) {
  constexpr int kParts = 4;
  constexpr int64_t kFar[2] = {power(512 + 32), power(512 - 32)};
  constexpr int64_t kNear[2] = {power(128 + 32), power(128 - 32)};
  const __m128i by_512 = _mm_set_epi64x(kFar[1], kFar[0]);
  const __m128i by_128 = _mm_set_epi64x(kNear[1], kNear[0]);
  const auto* next = reinterpret_cast<const __m128i*>(data);
  __m128i parts[kParts];
  for (int i = 0; i < kParts; ++i) parts[i] = _mm_loadu_si128(next + i);
  parts[0] = _mm_xor_si128(parts[0], _mm_cvtsi32_si128(static_cast<int>(*value)));
  uint64_t taken = 64;
  for (; size - taken >= 64; taken += 64) {
    next += kParts;
    for (int i = 0; i < kParts; ++i) {
      parts[i] = _mm_xor_si128(move_on(parts[i], by_512), _mm_loadu_si128(next + i));
    }
  }
  for (int i = 1; i < kParts; ++i) {
    parts[i] = _mm_xor_si128(move_on(parts[i - 1], by_128), parts[i]);
  }
  uint8_t rest[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(rest), parts[kParts - 1]);
  *value = take_bytes(0, rest, sizeof rest);
  return taken;
}

#elif defined(PEEL_ARM64)

bool can_fold() {
#if defined(__linux__)
  constexpr unsigned long kCrc32 = 1 << 7;  // HWCAP_CRC32
  return getauxval(AT_HWCAP) & kCrc32;
#else
  return true;  // all of Apple's
#endif
}

uint64_t fold(uint32_t* value, const uint8_t* data, uint64_t size) {
  const uint64_t taken = size / 8 * 8;
  for (uint64_t at = 0; at < taken; at += 8) {
    uint64_t word;
    std::memcpy(&word, data + at, 8);
    __asm__(".arch_extension crc\n\tcrc32x %w0, %w0, %x1" : "+r"(*value) : "r"(word));
  }
  return taken;
}

#else

bool can_fold() { return false; }
uint64_t fold(uint32_t*, const uint8_t*, uint64_t) { return 0; }

#endif

}  // namespace

uint32_t crc32(uint32_t before, const uint8_t* data, uint64_t size) {
  static const bool folds = can_fold();
  uint32_t value = ~before;
  if (folds && size >= 64) {
    const uint64_t taken = fold(&value, data, size);
    data += taken;
    size -= taken;
  }
  return ~take_bytes(value, data, size);
}

uint32_t crc32_by_table(uint32_t before, const uint8_t* data, uint64_t size) {
  return ~take_bytes(~before, data, size);
}

}  // namespace peel
