// The one body of the primitives, over the steps of one instruction set:
//   lookup16(table, codes)       table[code] of 32 codes below 16
//   LevelTable<bits>.at       levels of kLanes codes
//   expand<bits>(words)          32 codes from 4 bytes of each plane
//   widen_halves, widen_int8     to float, exactly
//   widen_int8_shorts, widen_shorts   to 16 and to 32 bits, without PEEL_INT8_PRODUCTS
//   transpose_square, sum_rows   of kLanes rows
//   reach, above, equal          comparisons of kLanes values, as bits
//   pack_values, pack_positions  the picked ones of kLanes, moved to the front
// included inside the anonymous namespace of its translation unit (vectors.h). A set that brings
// only lookup16 defines PEEL_PORTABLE_STEPS; one with products of bytes, PEEL_INT8_PRODUCTS; one
// that decodes a row in planes itself, PEEL_PLANES_ROW, or finds the levels of a row in its own
// way (ScaledLevels, as in row_body.h), PEEL_SCALED_LEVELS; one that takes another's bound_rows,
// and so needs no sum_rows, PEEL_BOUND_ROWS.

#ifdef PEEL_PORTABLE_STEPS
#include "simd/portable_steps.h"
#endif

// Calls f with the number of bits, 1 to 8, as a type.
template <int kBits>
struct Bits {
  static constexpr int value = kBits;
};
template <typename F>
static inline void with_bits(int bits, F&& f) {
  // clang-format off
  switch (bits) {
    case 1: return f(Bits<1>{});
    case 2: return f(Bits<2>{});
    case 3: return f(Bits<3>{});
    case 4: return f(Bits<4>{});
    case 5: return f(Bits<5>{});
    case 6: return f(Bits<6>{});
    case 7: return f(Bits<7>{});
    default: return f(Bits<8>{});
  }
  // clang-format on
}

constexpr uint32_t kLaneMask = (1u << kLanes) - 1;

// In this order: each may use what the ones before it define.
// clang-format off
#include "simd/row_body.h"
#include "simd/tile_body.h"
#include "simd/score_body.h"
#include "simd/bound_body.h"
#include "simd/selection_body.h"
// clang-format on

#ifndef PEEL_BOUND_ROWS
#include "simd/bound_rows_body.h"
#define PEEL_BOUND_ROWS bound_rows
#endif

// clang-format off
#define PEEL_PRIMITIVES(name)                                                                 \
  {name,             kMaxCode,       decode_planes,      decode_int8,      decode_float16,     \
   rotate,           transpose_tile, decode_planes_tile, decode_int8_tile, dot_tile,           \
   dot_float16_tile, dot_int8_tile,  PEEL_BOUND_ROWS,    bound_tile,       pack_codes,         \
   bound_int8_tile,  reach_tile,     share_tile,         sum_tile,         collect_between,    \
   collect_from}
// clang-format on
