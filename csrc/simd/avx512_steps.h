// The steps of the primitives with AVX-512, for its translation units: included inside their
// anonymous namespaces, before body.h.

#define PEEL_VECTOR_BYTES 64
#define PEEL_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define PEEL_BOUND_ROWS bound_rows_avx2
#include "simd/vectors.h"

static inline Bytes lookup16(const uint8_t* table, Bytes codes) {
  const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return reinterpret_cast<Bytes>(
      _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), reinterpret_cast<__m256i>(codes)));
}

static inline __m512i widen_codes(const uint8_t* codes) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
}

// Up to 64 levels stay in registers, 16 in each; more are gathered.
template <int kBits>
struct LevelTable {
  static constexpr int kVectors = kBits <= 4 ? 1 : kBits <= 6 ? 1 << (kBits - 4) : 1;
  const float* all;
  __m512 values[kVectors];

  explicit LevelTable(const float* levels) : all(levels) {
    for (int v = 0; v < kVectors; ++v) values[v] = _mm512_loadu_ps(levels + 16 * v);
  }
  Vector at(const uint8_t* codes) const {
    const __m512i index = widen_codes(codes);
    if constexpr (kBits > 6) {
      return _mm512_i32gather_ps(index, all, 4);
    } else if constexpr (kBits <= 4) {
      return _mm512_permutexvar_ps(index, values[0]);
    } else {
      const __m512 low = _mm512_permutex2var_ps(values[0], index, values[1]);
      if constexpr (kBits == 5) return low;
      const __m512 high = _mm512_permutex2var_ps(values[kVectors - 2], index, values[kVectors - 1]);
      return _mm512_mask_mov_ps(low, _mm512_test_epi32_mask(index, _mm512_set1_epi32(32)), high);
    }
  }
};

template <int kBits>
static inline Bytes expand(const uint32_t* words) {
  const __m256i one = _mm256_set1_epi8(1);
  __m256i codes = _mm256_setzero_si256();
  for (int bit = 0; bit < kBits; ++bit) {
    codes = _mm256_add_epi8(codes, codes);
    codes = _mm256_mask_add_epi8(codes, static_cast<__mmask32>(words[bit]), codes, one);
  }
  return reinterpret_cast<Bytes>(codes);
}

static inline void widen_halves(const uint16_t* halves, float* out, int64_t count) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves + i));
    _mm512_storeu_ps(out + i, _mm512_cvtph_ps(some));
  }
  for (; i < count; ++i) out[i] = half_to_float(halves[i]);
}

static inline Vector widen_int8(const int8_t* values) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values))));
}

static inline Totals widen_shorts(const int16_t* values) {
  return reinterpret_cast<Totals>(
      _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values))));
}

static inline Shorts widen_int8_shorts(const int8_t* values) {
  return reinterpret_cast<Shorts>(
      _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values))));
}

static inline void transpose_square(const float* const* rows, int64_t column, float* tile) {
  __m512 a[16], b[16];
  for (int r = 0; r < 16; ++r) a[r] = _mm512_loadu_ps(rows[r] + column);
  for (int r = 0; r < 16; r += 2) {
    b[r] = _mm512_unpacklo_ps(a[r], a[r + 1]);
    b[r + 1] = _mm512_unpackhi_ps(a[r], a[r + 1]);
  }
  for (int r = 0; r < 16; r += 4) {  // a[r + c]: columns c, c + 4, c + 8, c + 12 of rows r..r + 3
    a[r] = _mm512_shuffle_ps(b[r], b[r + 2], 0x44);
    a[r + 1] = _mm512_shuffle_ps(b[r], b[r + 2], 0xee);
    a[r + 2] = _mm512_shuffle_ps(b[r + 1], b[r + 3], 0x44);
    a[r + 3] = _mm512_shuffle_ps(b[r + 1], b[r + 3], 0xee);
  }
  for (int c = 0; c < 4; ++c) {
    // Of rows 0..7 and 8..15: columns c and c + 8, then c + 4 and c + 12.
    const __m512 low_even = _mm512_shuffle_f32x4(a[c], a[c + 4], 0x88);
    const __m512 low_odd = _mm512_shuffle_f32x4(a[c], a[c + 4], 0xdd);
    const __m512 high_even = _mm512_shuffle_f32x4(a[c + 8], a[c + 12], 0x88);
    const __m512 high_odd = _mm512_shuffle_f32x4(a[c + 8], a[c + 12], 0xdd);
    const auto put = [tile](int d, __m512 v) { _mm512_storeu_ps(tile + d * kTileRows, v); };
    put(c, _mm512_shuffle_f32x4(low_even, high_even, 0x88));
    put(c + 8, _mm512_shuffle_f32x4(low_even, high_even, 0xdd));
    put(c + 4, _mm512_shuffle_f32x4(low_odd, high_odd, 0x88));
    put(c + 12, _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd));
  }
}

static inline uint32_t reach(const float* values, float threshold) {
  return _mm512_cmp_ps_mask(_mm512_loadu_ps(values), _mm512_set1_ps(threshold), _CMP_NLT_UQ);
}

static inline uint32_t above(const float* values, float bound) {
  return _mm512_cmp_ps_mask(_mm512_loadu_ps(values), _mm512_set1_ps(bound), _CMP_GT_OQ);
}
static inline uint32_t equal(const float* values, float bound) {
  return _mm512_cmp_ps_mask(_mm512_loadu_ps(values), _mm512_set1_ps(bound), _CMP_EQ_OQ);
}
static inline void pack_values(const float* values, uint32_t mask, float* out) {
  const auto picked = static_cast<__mmask16>(mask);
  _mm512_storeu_ps(out, _mm512_maskz_compress_ps(picked, _mm512_loadu_ps(values)));
}
static inline void pack_positions(uint32_t first, uint32_t mask, uint32_t* out) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i positions = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(first)));
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), positions));
}
