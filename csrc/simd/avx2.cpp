#include <immintrin.h>

#include "core/half.h"
#include "simd/primitives.h"

namespace peel::simd {
namespace {

#define PEEL_VECTOR_BYTES 32
#define PEEL_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#include "simd/vectors.h"

static inline Bytes lookup16(const uint8_t* table, Bytes codes) {
  const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return reinterpret_cast<Bytes>(
      _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), reinterpret_cast<__m256i>(codes)));
}

static inline __m256i widen_codes(const uint8_t* codes) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
}

// The values of 8 codes among the first and the second 8, or, of up to 3 bits, among the first.
template <int kBits>
static inline Vector look_up(__m256 low, __m256 high, __m256i codes) {
  const __m256 below = _mm256_permutevar8x32_ps(low, codes);
  if constexpr (kBits < 4) return below;
  // A blend looks at the sign bit: bit 3 of a code is moved there.
  const __m256 top = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28));
  return _mm256_blendv_ps(below, _mm256_permutevar8x32_ps(high, codes), top);
}

// Up to 16 levels stay in registers; more are gathered, which costs less where a tile is decoded.
template <int kBits>
struct LevelTable {
  const float* all;
  __m256 low, high;

  explicit LevelTable(const float* levels)
      : all(levels),
        low(_mm256_loadu_ps(levels)),
        high(kBits == 4 ? _mm256_loadu_ps(levels + 8) : low) {}
  Vector at(const uint8_t* codes) const {
    const __m256i index = widen_codes(codes);
    if constexpr (kBits > 4) return _mm256_i32gather_ps(all, index, 4);
    return look_up<kBits>(low, high, index);
  }
};

// The levels of a row. Those in registers are scaled there, which gives the same products. Others
// are loaded one by one, which takes less time than gathers where nothing else is done with them.
#define PEEL_SCALED_LEVELS
template <int kBits>
struct ScaledLevels {
  const float* all;
  __m256 low, high;
  float scale;

  ScaledLevels(const LevelTable<kBits>& levels, float of_row)
      : all(levels.all),
        low(_mm256_mul_ps(levels.low, _mm256_set1_ps(of_row))),
        high(kBits == 4 ? _mm256_mul_ps(levels.high, _mm256_set1_ps(of_row)) : low),
        scale(of_row) {}
  void at(const uint8_t* codes, float* out) const {  // of 32 codes
    if constexpr (kBits <= 4) {
      for (int64_t i = 0; i < 32; i += 8) {
        store(out + i, look_up<kBits>(low, high, widen_codes(codes + i)));
      }
      return;
    }
    for (int64_t i = 0; i < 32; i += 8) {
      uint64_t eight;  // GCC takes single bytes out of the vector otherwise, which costs more
      __builtin_memcpy(&eight, codes + i, sizeof(eight));
      for (int k = 0; k < 8; ++k) out[i + k] = all[eight >> 8 * k & 0xff] * scale;
    }
  }
};

template <int kBits>
static inline Bytes expand(const uint32_t* words) {
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                          2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i picks = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201ull));
  __m256i codes = _mm256_setzero_si256();
  for (int bit = 0; bit < kBits; ++bit) {
    const __m256i copies =
        _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(words[bit])), spread);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(copies, picks), picks);  // 0 or -1
    codes = _mm256_sub_epi8(_mm256_add_epi8(codes, codes), set);
  }
  return reinterpret_cast<Bytes>(codes);
}

static inline void widen_halves(const uint16_t* halves, float* out, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + i));
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(eight));
  }
  for (; i < count; ++i) out[i] = half_to_float(halves[i]);
}

static inline Vector widen_int8(const int8_t* values) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(values))));
}

static inline void transpose_square(const float* const* rows, int64_t column, float* tile) {
  __m256 a[8], b[8];
  for (int r = 0; r < 8; ++r) a[r] = _mm256_loadu_ps(rows[r] + column);
  for (int r = 0; r < 8; r += 2) {
    b[r] = _mm256_unpacklo_ps(a[r], a[r + 1]);
    b[r + 1] = _mm256_unpackhi_ps(a[r], a[r + 1]);
  }
  for (int r = 0; r < 8; r += 4) {
    a[r] = _mm256_shuffle_ps(b[r], b[r + 2], 0x44);
    a[r + 1] = _mm256_shuffle_ps(b[r], b[r + 2], 0xee);
    a[r + 2] = _mm256_shuffle_ps(b[r + 1], b[r + 3], 0x44);
    a[r + 3] = _mm256_shuffle_ps(b[r + 1], b[r + 3], 0xee);
  }
  for (int d = 0; d < 4; ++d) {
    _mm256_storeu_ps(tile + d * kTileRows, _mm256_permute2f128_ps(a[d], a[d + 4], 0x20));
    _mm256_storeu_ps(tile + (d + 4) * kTileRows, _mm256_permute2f128_ps(a[d], a[d + 4], 0x31));
  }
}

static inline Vector sum_rows(const Vector* sums) {
  __m256 fours[2];  // lane 4 k + r: part k of the sum of row 4 i + r
  for (int i = 0; i < 2; ++i) {
    fours[i] = _mm256_hadd_ps(_mm256_hadd_ps(sums[4 * i], sums[4 * i + 1]),
                              _mm256_hadd_ps(sums[4 * i + 2], sums[4 * i + 3]));
  }
  return _mm256_add_ps(_mm256_permute2f128_ps(fours[0], fours[1], 0x20),
                       _mm256_permute2f128_ps(fours[0], fours[1], 0x31));
}

static inline uint32_t reach(const float* values, float threshold) {
  const __m256 not_below =
      _mm256_cmp_ps(_mm256_loadu_ps(values), _mm256_set1_ps(threshold), _CMP_NLT_UQ);
  return static_cast<uint32_t>(_mm256_movemask_ps(not_below));
}

static inline uint32_t above(const float* values, float bound) {
  const __m256 set = _mm256_cmp_ps(_mm256_loadu_ps(values), _mm256_set1_ps(bound), _CMP_GT_OQ);
  return static_cast<uint32_t>(_mm256_movemask_ps(set));
}
static inline uint32_t equal(const float* values, float bound) {
  const __m256 set = _mm256_cmp_ps(_mm256_loadu_ps(values), _mm256_set1_ps(bound), _CMP_EQ_OQ);
  return static_cast<uint32_t>(_mm256_movemask_ps(set));
}

// Row m: the lanes set in m, ascending, in bytes.
struct PackOrders {
  uint64_t rows[256] = {};
  constexpr PackOrders() {
    for (unsigned mask = 0; mask < 256; ++mask) {
      int at = 0;
      for (unsigned lane = 0; lane < 8; ++lane) {
        if (mask >> lane & 1u) rows[mask] |= uint64_t{lane} << (8 * at++);
      }
    }
  }
};
constexpr PackOrders kPackOrders;

static inline __m256i pack_order(uint32_t mask) {
  return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kPackOrders.rows[mask])));
}
static inline void pack_values(const float* values, uint32_t mask, float* out) {
  _mm256_storeu_ps(out, _mm256_permutevar8x32_ps(_mm256_loadu_ps(values), pack_order(mask)));
}
static inline void pack_positions(uint32_t first, uint32_t mask, uint32_t* out) {
  const __m256i base = _mm256_set1_epi32(static_cast<int>(first));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_add_epi32(base, pack_order(mask)));
}

// As those in bound_body.h. The instruction multiplies unsigned by signed bytes and adds two
// neighbouring products (2 * 255 * kMaxCode must not exceed 32767: it saturates), so two
// coordinates of a row are brought together and 128 is added to each value. Sums begin with what
// that adds to them, taken off: 8 products fit into 16 bits all the way.
#define PEEL_INT8_PRODUCTS
constexpr int kMaxCode = 31;
constexpr int64_t kSummed = 8;

// The codes of two coordinates in the lower half of a word; in the upper, where 8 coordinates
// begin, -128 times the sum of their codes.
static void pack_codes(const int8_t* codes, int64_t count, uint32_t* words) {
  for (int64_t i = 0; i < count; i += 2) {
    words[i] = static_cast<uint8_t>(codes[i]);
    if (i + 1 < count) words[i] |= static_cast<uint32_t>(static_cast<uint8_t>(codes[i + 1])) << 8;
    if (i % kSummed) continue;
    uint32_t sum = 0;
    for (int64_t k = i; k < count && k < i + kSummed; ++k) sum += static_cast<uint32_t>(codes[k]);
    words[i] |= (0u - 128 * sum) << 16;
  }
}

static inline __m256i load_coordinate(const int8_t* values) {
  return _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)),
                          _mm256_set1_epi8(-128));
}

static inline Totals widen_half(__m256i words, int half) {
  return reinterpret_cast<Totals>(_mm256_cvtepi16_epi32(half ? _mm256_extracti128_si256(words, 1)
                                                             : _mm256_castsi256_si128(words)));
}

static inline void sum_a_few(const uint32_t* words, const int8_t* values, int64_t count,
                             Totals* totals) {
  // Rows 0 to 7 and 16 to 23; 8 to 15 and 24 to 31.
  __m256i low = _mm256_set1_epi16(static_cast<int16_t>(words[0] >> 16)), high = low;
  for (int64_t i = 0; i < count; i += 2) {
    const __m256i a = load_coordinate(values + i * kTileRows);
    const __m256i b = i + 1 < count ? load_coordinate(values + (i + 1) * kTileRows) : a;
    const __m256i codes = _mm256_set1_epi16(static_cast<int16_t>(words[i]));
    low = _mm256_add_epi16(low, _mm256_maddubs_epi16(_mm256_unpacklo_epi8(a, b), codes));
    high = _mm256_add_epi16(high, _mm256_maddubs_epi16(_mm256_unpackhi_epi8(a, b), codes));
  }
  totals[0] += widen_half(low, 0);
  totals[1] += widen_half(high, 0);
  totals[2] += widen_half(low, 1);
  totals[3] += widen_half(high, 1);
}

static inline void sum_products(const uint32_t* words, int32_t, const int8_t* values, int64_t width,
                                Totals* totals) {
  for (int64_t v = 0; v < kTileVectors; ++v) totals[v] = Totals{};
  int64_t i = 0;
  for (; i + kSummed <= width; i += kSummed) {
    sum_a_few(words + i, values + i * kTileRows, kSummed, totals);
  }
  if (i < width) sum_a_few(words + i, values + i * kTileRows, width - i, totals);
}

#include "simd/body.h"

}  // namespace

extern const Primitives kAvx2 = PEEL_PRIMITIVES("avx2");

void bound_rows_avx2(const float* user, const float* const* rows, const float* const* next,
                     int64_t count, int64_t dim, float slack, float least, float* bounds) {
  kAvx2.bound_rows(user, rows, next, count, dim, slack, least, bounds);
}

}  // namespace peel::simd
