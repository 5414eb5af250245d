// The 128-bit vectors of WebAssembly. Products and sums are rounded one by one, as in portable.cpp:
// the same bits.
#include <wasm_simd128.h>

#include "core/half.h"
#include "simd/primitives.h"

namespace peel::simd {
namespace {

#define PEEL_VECTOR_BYTES 16
#define PEEL_FMA(a, b, c) ((a) * (b) + (c))
#include "simd/vectors.h"

// 32 bytes in the two halves that registers have.
typedef uint8_t Half __attribute__((vector_size(16)));
static inline v128_t low_half(Bytes bytes) {
  return (v128_t)__builtin_shufflevector(bytes, bytes, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,
                                         14, 15);
}
static inline v128_t high_half(Bytes bytes) {
  return (v128_t)__builtin_shufflevector(bytes, bytes, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26,
                                         27, 28, 29, 30, 31);
}
static inline Bytes join_halves(v128_t low, v128_t high) {
  return __builtin_shufflevector((Half)low, (Half)high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
                                 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29,
                                 30, 31);
}

static inline Bytes lookup16(const uint8_t* table, Bytes codes) {
  const v128_t entries = wasm_v128_load(table);
  return join_halves(wasm_i8x16_swizzle(entries, low_half(codes)),
                     wasm_i8x16_swizzle(entries, high_half(codes)));
}

// Every byte of a word eight times, and of each the bit that is asked for: all ones where it is
// set.
template <int kFirst>
static inline v128_t bits_of(uint32_t word) {
  constexpr int a = kFirst;
  constexpr int b = kFirst + 1;
  const v128_t words = wasm_i32x4_splat(static_cast<int32_t>(word));
  const v128_t bytes =
      wasm_i8x16_shuffle(words, words, a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b);
  const v128_t bit = wasm_i64x2_const_splat(static_cast<int64_t>(0x8040201008040201u));
  return wasm_i8x16_eq(wasm_v128_and(bytes, bit), bit);
}
template <int kBits>
static inline Bytes expand(const uint32_t* words) {
  v128_t low = wasm_i64x2_const_splat(0);
  v128_t high = low;
  for (int bit = 0; bit < kBits; ++bit) {
    low = wasm_i8x16_sub(wasm_i8x16_add(low, low), bits_of<0>(words[bit]));
    high = wasm_i8x16_sub(wasm_i8x16_add(high, high), bits_of<2>(words[bit]));
  }
  return join_halves(low, high);
}

// As half_to_float: exact, subnormal values by a product, infinities and NaNs by their bits.
static inline v128_t widen_four_halves(const uint16_t* halves) {
  const v128_t words = wasm_u32x4_load16x4(halves);
  const v128_t sign = wasm_i32x4_shl(wasm_v128_and(words, wasm_i32x4_const_splat(0x8000)), 16);
  const v128_t rest = wasm_v128_and(words, wasm_i32x4_const_splat(0x7fff));
  const v128_t shifted = wasm_i32x4_shl(rest, 13);
  const v128_t finite = wasm_f32x4_mul(shifted, wasm_f32x4_const_splat(0x1p112f));
  const v128_t is_nan = wasm_i32x4_gt(rest, wasm_i32x4_const_splat(0x7c00));
  const v128_t quiet = wasm_v128_and(is_nan, wasm_i32x4_const_splat(0x00400000));
  const v128_t beyond =
      wasm_v128_or(wasm_v128_or(shifted, quiet), wasm_i32x4_const_splat(0x7f800000));
  const v128_t is_beyond = wasm_i32x4_gt(rest, wasm_i32x4_const_splat(0x7bff));
  return wasm_v128_or(sign, wasm_v128_bitselect(beyond, finite, is_beyond));
}
static inline void widen_halves(const uint16_t* halves, float* out, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) wasm_v128_store(out + i, widen_four_halves(halves + i));
  for (; i < count; ++i) out[i] = half_to_float(halves[i]);
}

static inline Vector widen_int8(const int8_t* values) {
  const v128_t shorts = wasm_i16x8_extend_low_i8x16(wasm_v128_load32_zero(values));
  return (Vector)wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(shorts));
}
static inline Totals widen_shorts(const int16_t* values) {
  return (Totals)wasm_i32x4_load16x4(values);
}
static inline Shorts widen_int8_shorts(const int8_t* values) {
  return (Shorts)wasm_i16x8_load8x8(values);
}

static inline void transpose_square(const float* const* rows, int64_t column, float* tile) {
  const v128_t a = wasm_v128_load(rows[0] + column);
  const v128_t b = wasm_v128_load(rows[1] + column);
  const v128_t c = wasm_v128_load(rows[2] + column);
  const v128_t d = wasm_v128_load(rows[3] + column);
  const v128_t ab_low = wasm_i32x4_shuffle(a, b, 0, 4, 1, 5);
  const v128_t ab_high = wasm_i32x4_shuffle(a, b, 2, 6, 3, 7);
  const v128_t cd_low = wasm_i32x4_shuffle(c, d, 0, 4, 1, 5);
  const v128_t cd_high = wasm_i32x4_shuffle(c, d, 2, 6, 3, 7);
  wasm_v128_store(tile, wasm_i64x2_shuffle(ab_low, cd_low, 0, 2));
  wasm_v128_store(tile + kTileRows, wasm_i64x2_shuffle(ab_low, cd_low, 1, 3));
  wasm_v128_store(tile + 2 * kTileRows, wasm_i64x2_shuffle(ab_high, cd_high, 0, 2));
  wasm_v128_store(tile + 3 * kTileRows, wasm_i64x2_shuffle(ab_high, cd_high, 1, 3));
}

static inline Vector sum_rows(const Vector* sums) {
  const auto pairs = [](Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 0, 4, 2, 6) + __builtin_shufflevector(a, b, 1, 5, 3, 7);
  };
  const Vector low = pairs(sums[0], sums[1]), high = pairs(sums[2], sums[3]);
  return __builtin_shufflevector(low, high, 0, 1, 4, 5) +
         __builtin_shufflevector(low, high, 2, 3, 6, 7);
}

static inline uint32_t reach(const float* values, float threshold) {
  const v128_t below = wasm_f32x4_lt(wasm_v128_load(values), wasm_f32x4_splat(threshold));
  return wasm_i32x4_bitmask(below) ^ 0xfu;
}
static inline uint32_t above(const float* values, float bound) {
  return wasm_i32x4_bitmask(wasm_f32x4_gt(wasm_v128_load(values), wasm_f32x4_splat(bound)));
}
static inline uint32_t equal(const float* values, float bound) {
  return wasm_i32x4_bitmask(wasm_f32x4_eq(wasm_v128_load(values), wasm_f32x4_splat(bound)));
}

#define PEEL_OWN_EXPANSION
#define PEEL_OWN_WIDENING
#define PEEL_PORTABLE_STEPS
#include "simd/body.h"

}  // namespace

extern const Primitives kWasm128 = PEEL_PRIMITIVES("wasm128");

}  // namespace peel::simd
