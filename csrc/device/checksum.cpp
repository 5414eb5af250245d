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

constexpr int kLeastFold = 128;  // bytes from which on it pays
constexpr int kSlices = 16;      // bytes taken at once (Kounavis and Berry, 2008)
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

constexpr int kLeastWideFold = 256;  // as kLeastFold, of vectors twice as wide

// x^n modulo the polynomial, reflected, and moved by the bit that a product of reflected words is
// short of.
constexpr int64_t power(int n) {
  uint32_t value = 0x80000000u;
  for (; n > 0; --n) value = (value >> 1) ^ (value & 1 ? 0xedb88320u : 0);
  return static_cast<int64_t>(uint64_t{value} << 1);
}

bool can_fold() { return processor().carryless_product; }

// What moves 16 bytes `bits` bits further on.
template <int bits>
__attribute__((target("sse4.1"))) inline __m128i powers_of() {
  constexpr int64_t kPowers[2] = {power(bits + 32), power(bits - 32)};
  return _mm_set_epi64x(kPowers[1], kPowers[0]);
}

// What 16 bytes are worth further on, by the powers of how far.
__attribute__((target("pclmul,sse4.1"))) inline __m128i move_on(__m128i bytes, __m128i powers) {
  return _mm_xor_si128(_mm_clmulepi64_si128(bytes, powers, 0x00),
                       _mm_clmulepi64_si128(bytes, powers, 0x11));
}

// The same of two times 16 bytes, each by itself.
__attribute__((target("vpclmulqdq,avx2"))) inline __m256i move_on(__m256i bytes, __m256i powers) {
  return _mm256_xor_si256(_mm256_clmulepi64_epi128(bytes, powers, 0x00),
                          _mm256_clmulepi64_epi128(bytes, powers, 0x11));
}

// Folds 256 bytes at a time into the next 256, and the last of them into `parts` (kLeastFold).
// At least kLeastWideFold bytes; returns how many it took.
__attribute__((target("vpclmulqdq,avx2"))) uint64_t fold_wide(uint32_t value, const uint8_t* data,
                                                              uint64_t size, void* parts) {
  constexpr int kParts = kLeastWideFold / 32;
  constexpr int kBits = 8 * kLeastWideFold;
  const __m256i whole = _mm256_broadcastsi128_si256(powers_of<kBits>());
  const __m256i half = _mm256_broadcastsi128_si256(powers_of<kBits / 2>());
  const auto* next = reinterpret_cast<const __m256i*>(data);
  __m256i wide[kParts];
  for (int i = 0; i < kParts; ++i) wide[i] = _mm256_loadu_si256(next + i);
  wide[0] =
      _mm256_xor_si256(wide[0], _mm256_zextsi128_si256(_mm_cvtsi32_si128(static_cast<int>(value))));
  uint64_t taken = kLeastWideFold;
  for (; size - taken >= kLeastWideFold; taken += kLeastWideFold) {
    next += kParts;
    for (int i = 0; i < kParts; ++i) {
      wide[i] = _mm256_xor_si256(move_on(wide[i], whole), _mm256_loadu_si256(next + i));
    }
  }
  for (int i = 0; i < kParts / 2; ++i) {
    _mm256_storeu_si256(static_cast<__m256i*>(parts) + i,
                        _mm256_xor_si256(move_on(wide[i], half), wide[i + kParts / 2]));
  }
  return taken;
}

// Folds 128 bytes at a time into the next 128, the last of them into 16, which have the remainder
// of all that came before (Gopal et al., 2009). At least kLeastFold bytes; returns how many it
// took. Eight parts take a fifth less time than four: a product waits for the one before it.
__attribute__((target("pclmul,sse4.1"))) uint64_t fold(uint32_t* value, const uint8_t* data,
                                                       uint64_t size) {
  constexpr int kParts = kLeastFold / 16;
  const __m128i by_1024 = powers_of<8 * kLeastFold>();
  const __m128i by_128 = powers_of<128>();
  __m128i parts[kParts];
  uint64_t taken = kLeastFold;
  if (size >= kLeastWideFold && processor().wide_carryless_product) {
    taken = fold_wide(*value, data, size, parts);
  } else {
    std::memcpy(parts, data, sizeof(parts));
    parts[0] = _mm_xor_si128(parts[0], _mm_cvtsi32_si128(static_cast<int>(*value)));
  }
  for (; size - taken >= kLeastFold; taken += kLeastFold) {
    const auto* next = reinterpret_cast<const __m128i*>(data + taken);
    for (int i = 0; i < kParts; ++i) {
      parts[i] = _mm_xor_si128(move_on(parts[i], by_1024), _mm_loadu_si128(next + i));
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
  if (folds && size >= kLeastFold) {
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
