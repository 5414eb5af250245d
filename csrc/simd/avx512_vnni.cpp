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

// As those in row_body.h, on 64 codes at a time.
#define PEEL_PLANES_ROW

// The bytes of the levels apart: byte k of level c is byte c % 64 of parts[k][c / 64].
template <int kBits>
struct RowLevels {
  static constexpr int kQuarters = kBits <= 6 ? 1 : 1 << (kBits - 6);
  __m512i parts[4][kQuarters];

  explicit RowLevels(const float* levels) {
    constexpr int kVectors = kBits <= 4 ? 1 : kBits <= 6 ? 1 << (kBits - 4) : 4;
    for (int q = 0; q < kQuarters; ++q) {
      uint8_t bytes[4][64];
      for (int v = 0; v < kVectors; ++v) {
        const __m512i some = _mm512_loadu_si512(levels + 64 * q + 16 * v);
        for (int k = 0; k < 4; ++k) {
          const __m512i shifted = _mm512_srli_epi32(some, static_cast<unsigned>(8 * k));
          _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes[k] + 16 * v),
                           _mm512_cvtepi32_epi8(shifted));
        }
      }
      for (int k = 0; k < 4; ++k) parts[k][q] = _mm512_loadu_si512(bytes[k]);
    }
  }

  // Byte k of the levels of 64 codes; in[q] are the codes from 64 q on.
  __m512i at(int k, __m512i codes, const __mmask64* in) const {
    __m512i bytes = _mm512_permutexvar_epi8(codes, parts[k][0]);
    for (int q = 1; q < kQuarters; ++q) {
      bytes = _mm512_mask_permutexvar_epi8(bytes, in[q], codes, parts[k][q]);
    }
    return bytes;
  }
};

// Eight bytes of each plane, eight planes one after another.
template <int kBits>
static inline __m512i load_planes(const uint8_t* planes, int64_t plane_bytes, int64_t first,
                                  int64_t bytes) {
  if (plane_bytes == 8) {  // no wider than it must be: a masked load, too, waits for all its lines
    const auto* from = reinterpret_cast<const __m128i*>(planes);
    if constexpr (kBits == 1) return _mm512_zextsi128_si512(_mm_loadl_epi64(from));
    if constexpr (kBits == 2) return _mm512_zextsi128_si512(_mm_loadu_si128(from));
    if constexpr (kBits <= 4) {
      return _mm512_zextsi256_si512(_mm256_maskz_loadu_epi8(~0u >> (32 - 8 * kBits), planes));
    }
    return _mm512_maskz_loadu_epi8(~0ull >> (64 - 8 * kBits), planes);
  }
  if (bytes == 8) {
    const __m512i each = _mm512_mullo_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7),
                                            _mm512_set1_epi64(plane_bytes));
    return _mm512_mask_i64gather_epi64(_mm512_setzero_si512(), (1u << kBits) - 1, each,
                                       planes + first, 1);
  }
  uint64_t words[8] = {};
  for (int bit = 0; bit < kBits; ++bit) {
    __builtin_memcpy(&words[bit], planes + bit * plane_bytes + first, static_cast<size_t>(bytes));
  }
  return _mm512_loadu_si512(words);
}

// The codes of 64 coordinates, byte 16 l + 4 v + i that of coordinate 16 v + 4 l + i.
template <int kBits>
static inline __m512i codes_of(__m512i planes) {
  // Byte 8 j + k of `eights`: byte j of plane k - (8 - kBits), where there is such a plane.
  const __m512i byte = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
  const __m512i spread = _mm512_add_epi8(
      _mm512_sub_epi8(_mm512_set1_epi64(0x3830282018100800ll), _mm512_set1_epi8(8 * (8 - kBits))),
      _mm512_mullo_epi64(byte, _mm512_set1_epi64(0x0101010101010101ll)));
  constexpr uint64_t kThere = (0xffull << (8 - kBits) & 0xff) * 0x0101010101010101ull;
  const __m512i eights = _mm512_maskz_permutexvar_epi8(kThere, spread, planes);
  // Bit i of byte k of eight bytes becomes bit 7 - k of byte i.
  const __m512i codes = _mm512_gf2p8affine_epi64_epi8(
      _mm512_set1_epi64(static_cast<int64_t>(0x8040201008040201ull)), eights, 0);
  const __m512i quads = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(quads, codes);
}

template <int kBits>
static inline void decode_planes_row(const RowLevels<kBits>& table, const PlanesRow& row,
                                     float scale, int64_t dim) {
  const int64_t plane_bytes = (dim + 7) / 8;
  const __m512 scales = _mm512_set1_ps(scale);
  for (int64_t first = 0; first < dim; first += 64) {
    const int64_t count = dim - first < 64 ? dim - first : 64;
    const __m512i codes =
        codes_of<kBits>(load_planes<kBits>(row.planes, plane_bytes, first / 8, (count + 7) / 8));
    __mmask64 in[4] = {};
    if constexpr (kBits > 6) {
      const __m512i quarter = _mm512_and_si512(codes, _mm512_set1_epi8(-64));
      for (int q = 1; q < RowLevels<kBits>::kQuarters; ++q) {
        in[q] = _mm512_cmpeq_epi8_mask(quarter, _mm512_set1_epi8(static_cast<char>(64 * q)));
      }
    }
    const __m512i b0 = table.at(0, codes, in), b1 = table.at(1, codes, in);
    const __m512i b2 = table.at(2, codes, in), b3 = table.at(3, codes, in);
    const __m512i low = _mm512_unpacklo_epi8(b0, b1), low_high = _mm512_unpacklo_epi8(b2, b3);
    const __m512i high = _mm512_unpackhi_epi8(b0, b1), high_high = _mm512_unpackhi_epi8(b2, b3);
    const __m512i values[4] = {
        _mm512_unpacklo_epi16(low, low_high), _mm512_unpackhi_epi16(low, low_high),
        _mm512_unpacklo_epi16(high, high_high), _mm512_unpackhi_epi16(high, high_high)};
    float* to = row.out + first;
    for (int v = 0; v < 4; ++v) {
      const __m512 product = _mm512_mul_ps(_mm512_castsi512_ps(values[v]), scales);
      const int64_t left = count - 16 * v;
      if (left >= 16) {
        _mm512_storeu_ps(to + 16 * v, product);
      } else if (left > 0) {
        _mm512_mask_storeu_ps(to + 16 * v, static_cast<__mmask16>((1u << left) - 1), product);
      }
    }
  }
}

#include "simd/body.h"

}  // namespace

extern const Primitives kAvx512Vnni = PEEL_PRIMITIVES("avx512_vnni");

}  // namespace peel::simd
