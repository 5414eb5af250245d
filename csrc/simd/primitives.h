// The innermost loops, compiled once per instruction set and chosen once at start.
//
// A tile is kTileRows rows side by side: element e of all of them, then element e + 1. Elements are
// floats, int8 values, or bytes of a bit plane (bit d % 8 of byte d / 8 belongs to coordinate d).
// Where an array is a whole tile, lanes beyond the rows there are hold anything.
#pragma once

#include <cstdint>

namespace peel::simd {

constexpr int64_t kTileRows = 32;
constexpr int64_t kSumLanes = 16;  // partial sums of sum_tile
constexpr int kBoundBits = 4;      // of a code, that bound_tile looks at

// What collect_between adds up about a window of values.
struct WindowCounts {
  int64_t above = 0;    // values above its upper end
  int64_t at_high = 0;  // equal to it
  int64_t at_low =
      0;          // equal to its lower end; where both ends are equal they count once, as at_high
  float largest;  // of all values
  bool nan = false;  // whether any is NaN; all else is then unspecified
};

// One layer's tile of int8 values, with the fp16 scales of its kTileRows rows; it holds the
// coordinates [begin, begin + width).
struct Int8Layer {
  const int8_t* values;
  const uint16_t* scales;
  int64_t begin;
  int64_t width;
};

// A user as bound_int8_tile takes it: coordinate d is about step * code(d).
struct Int8User {
  const uint32_t* words;  // [dim], the codes of each layer as pack_codes makes them
  const int32_t* sums;    // [dim], at a layer's first coordinate: of its codes
  const float* slacks;    // [dim], likewise: what a layer's bound may be short of, before the scale
  float step;
};

// A row in planes to be decoded: its planes lie one after another, whole bytes each, the most
// significant bits first.
struct PlanesRow {
  const uint8_t* planes;
  const uint8_t* scale;  // fp16
  float* out;
};

struct Primitives {
  const char* name;
  int max_code;  // of a coordinate in an Int8User

  // ---- rows ----
  // Those that take rows `next`, as many, or null, ask for them meanwhile.

  // rows[r].out[d] = levels[code(d)] * scale for d < dim, where code(d) has `bits` bits, 1 to 8.
  // `levels` is the entry of `bits` in the table of all widths (Geometry in core/table.h). The
  // product is rounded once, so every instruction set agrees bit for bit.
  void (*decode_planes)(const PlanesRow* rows, const PlanesRow* next, int64_t count, int bits,
                        const float* levels, int64_t dim);
  // out[i] = float(values[i]) * scale, rounded once.
  void (*decode_int8)(const int8_t* values, float scale, float* out, int64_t count);
  // out[i] = float(values[i]); exact.
  void (*decode_float16)(const uint16_t* values, float* out, int64_t count);
  // out[r, j] = sum over k ascending of x[r, k] * rotation_t[k * dim + j] for r < count, every
  // product and every sum rounded: the same bits everywhere. `rotation_t` is the transposed
  // rotation; out must not be x.
  void (*rotate)(const float* x, int64_t count, const float* rotation_t, float* out, int64_t dim);

  // ---- tiles ----

  // tile[d, r] = rows[r][d] for r < count; lanes from count on are zero. `next` as above.
  void (*transpose_tile)(const float* const* rows, const float* const* next, int64_t count,
                         int64_t dim, float* tile);
  // tile[d, r] = levels[code(d, r)] * scales[r], as decode_planes; planes[b] is a tile of bytes.
  void (*decode_planes_tile)(const uint8_t* const* planes, int bits, const float* levels,
                             const float* scales, float* tile, int64_t dim);
  // tile[i, r] = float(values[i, r]) * scales[r], as decode_int8.
  void (*decode_int8_tile)(const int8_t* values, const float* scales, float* tile, int64_t width);
  // out[u, r] = (accumulate ? out[u, r] : 0) + sum over d ascending of users[u, d] * tile[d, r].
  // One accumulator per pair, so a score does not depend on what is scored beside it; with fused
  // multiply-add where the instruction set has it, so these scores agree between all sets but the
  // portable one.
  void (*dot_tile)(const float* users, int64_t num_users, int64_t user_stride, const float* tile,
                   int64_t dim, bool accumulate, float* out);
  // As decode_float16 and dot_tile, the same bits, without a decoded tile in between.
  void (*dot_float16_tile)(const float* users, int64_t num_users, int64_t user_stride,
                           const uint16_t* tile, int64_t dim, bool accumulate, float* out);
  // As decode_int8_tile and dot_tile on one layer after another, the same bits, without a decoded
  // tile in between: faster for a few users.
  void (*dot_int8_tile)(const float* users, int64_t num_users, int64_t user_stride,
                        const Int8Layer* layers, int64_t num_layers, float* out);
  // bounds[r] = least + sum over d of rows[r][d] * (user[d] + slack * rows[r][d]) for r < count,
  // summed in any order; infinite where that is not a number. `next` as above.
  void (*bound_rows)(const float* user, const float* const* rows, const float* const* next,
                     int64_t count, int64_t dim, float slack, float least, float* bounds);
  // Bit r: not (scales[r] * (base + step * sums[r]) < threshold), where sums[r] adds up
  // steps[16 * d + code(d, r)] over 8 * plane_bytes coordinates, at most 256, and code(d, r) are
  // the first `bits` (at most kBoundBits) bits.
  uint32_t (*bound_tile)(const uint8_t* const* planes, int bits, int64_t plane_bytes,
                         const uint8_t* steps, float step, float base, const float* scales,
                         float threshold);
  // A layer's codes, at most max_code in size, in the order this set multiplies them.
  void (*pack_codes)(const int8_t* codes, int64_t count, uint32_t* words);
  // Bit r: not (sum over layers of scales[r] * (step * (sum over d of code(d) * values[d, r]) +
  // slacks[begin]) < threshold), or a scale of row r is negative. The sums of products are exact
  // whole numbers, and rounded to float once.
  uint32_t (*bound_int8_tile)(const Int8User& user, const Int8Layer* layers, int64_t num_layers,
                              float threshold);
  // Bit r of masks[u]: not (scores[u, r] < thresholds[u]).
  void (*reach_tile)(const float* scores, int64_t num_users, const float* thresholds,
                     uint32_t* masks);
  // A tile's part in a softmax: shares[r] = exp(dots[r] * scales[r] - most), where the exponent is
  // rounded to float and the result to 3e-7 of it, 0 below -87; and 0 where scales[r] is 0. Returns
  // as bits the rows whose exponent is above 0, whose shares are then unspecified.
  uint32_t (*share_tile)(const float* dots, const float* scales, float most, float* shares);
  // sums[d, lane] += sum over r of weights[r] * tile[d, r], where r % kSumLanes is the lane.
  void (*sum_tile)(const float* weights, const float* tile, int64_t dim, float* sums);

  // ---- selection ----

  // Writes the values strictly between `low` and `high` to `out` [count], in order, and returns how
  // many. The rest it counts.
  int64_t (*collect_between)(const float* values, int64_t count, float low, float high, float* out,
                             WindowCounts* counts);
  // Writes the positions of the values above the threshold and of the first *ties equal to it to
  // `out` [count], ascending, and returns how many; *ties becomes what is left of them.
  int64_t (*collect_from)(const float* values, int64_t count, float threshold, int64_t* ties,
                          uint32_t* out);
};

// The best set this processor runs, or the one PEEL_ISA names. Throws std::invalid_argument when
// PEEL_ISA names one that is unknown or cannot run here.
const Primitives& primitives();

// The sets compiled in that this processor runs, best first, ending with null; and one by name,
// null when there is none.
const Primitives* const* available();
const Primitives* find(const char* name);

// The bound_rows of avx2, which the sets with AVX-512 have, too. On Zen 4 halves of a line come
// sooner than lines, and much sooner where rows begin anywhere in a line.
void bound_rows_avx2(const float* user, const float* const* rows, const float* const* next,
                     int64_t count, int64_t dim, float slack, float least, float* bounds);

// Defined by the translation unit of each instruction set.
extern const Primitives kPortable;
extern const Primitives kAvx2;
extern const Primitives kAvx512;
extern const Primitives kAvx512Vnni;
extern const Primitives kNeon;
extern const Primitives kWasm128;

}  // namespace peel::simd
