#include <immintrin.h>

#include "core/half.h"
#include "simd/primitives.h"

namespace peel::simd {
namespace {

#include "simd/avx512_steps.h"

// As the one in bound_body.h. The instruction multiplies unsigned by signed bytes and adds four
// neighbouring products, so four coordinates of a row are brought together and 128 is added to each
// value, which the sum of the codes takes off again.
#define PEEL_INT8_PRODUCTS
constexpr int kMaxCode = 127;

static void pack_codes(const int8_t* codes, int64_t count, uint32_t* words) {
  for (int64_t i = 0; i < count; ++i) {
    words[i] = 0;
    for (int64_t k = 0; k < 4 && i + k < count; ++k) {
      words[i] |= static_cast<uint32_t>(static_cast<uint8_t>(codes[i + k])) << 8 * k;
    }
  }
}

static inline __m512i load_coordinates(const int8_t* values, int64_t count) {
  const auto mask = static_cast<__mmask64>(count >= 2 ? ~0ull : count == 1 ? 0xffffffffull : 0ull);
  return _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, values), _mm512_set1_epi8(-128));
}

static inline void sum_products(const uint32_t* words, int32_t sum, const int8_t* values,
                                int64_t width, Totals* totals) {
  // Byte 4 r + k of the result: coordinate k of row r, 32 rows a coordinate.
  const __m512i row = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i low = _mm512_add_epi32(_mm512_mullo_epi32(row, _mm512_set1_epi32(0x01010101)),
                                       _mm512_set1_epi32(0x60402000));
  const __m512i high = _mm512_add_epi8(low, _mm512_set1_epi8(16));
  __m512i first = _mm512_set1_epi32(-128 * sum), second = first;
  for (int64_t i = 0; i < width; i += 4) {
    const int8_t* part = values + i * kTileRows;
    const __m512i a = load_coordinates(part, width - i);
    const __m512i b = load_coordinates(part + 2 * kTileRows, width - i - 2);
    const __m512i codes = _mm512_set1_epi32(static_cast<int>(words[i]));
    first = _mm512_dpbusd_epi32(first, _mm512_permutex2var_epi8(a, low, b), codes);
    second = _mm512_dpbusd_epi32(second, _mm512_permutex2var_epi8(a, high, b), codes);
  }
  totals[0] = reinterpret_cast<Totals>(first);
  totals[1] = reinterpret_cast<Totals>(second);
}

#include "simd/body.h"

}  // namespace

extern const Primitives kAvx512Vnni = PEEL_PRIMITIVES("avx512_vnni");

}  // namespace peel::simd
