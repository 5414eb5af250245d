// The innermost loops, compiled once per instruction set and chosen once at start.
#pragma once

#include <cstdint>

namespace peel::simd {

struct Primitives {
  const char* name;

  // out[d] = centroids[code(d)] * scale for d < dim, where code(d) has `bits` bits, the most
  // significant from planes[0]. The product is rounded once, so every instruction set agrees bit
  // for bit.
  void (*decode_planes)(const uint8_t* const* planes, int bits, const float* centroids, float scale,
                        float* out, int64_t dim);
  // out[i] = float(values[i]) * scale, rounded once.
  void (*decode_int8)(const int8_t* values, float scale, float* out, int64_t count);
  // out[i] = float(values[i]); exact.
  void (*decode_float16)(const uint16_t* values, float* out, int64_t count);
  // out[j] = sum over k ascending of x[k] * rotation_t[k * dim + j], every product and every sum
  // rounded: the same bits everywhere. `rotation_t` is the transposed rotation; out must not be x.
  void (*rotate)(const float* x, const float* rotation_t, float* out, int64_t dim);
  // tile[d * kTileRows + r] = rows[r * stride + d] for r < count; lanes from count on are zero.
  void (*transpose)(const float* rows, int64_t stride, int64_t count, int64_t dim, float* tile);
  // out[u * kTileRows + r] = sum over d ascending of users[u, d] * tile[d, r]. One accumulator per
  // pair, so a score does not depend on what is scored beside it; with fused multiply-add where the
  // instruction set has it, so these scores agree between all sets but the portable one.
  void (*dot_tile)(const float* users, int64_t num_users, int64_t user_stride, const float* tile,
                   int64_t dim, float* out);
};

constexpr int64_t kTileRows = 32;

// The best set this processor runs, or the one PEEL_ISA names. Throws std::invalid_argument when
// PEEL_ISA names one that is unknown or cannot run here.
const Primitives& primitives();

// The sets compiled in that this processor runs, best first, ending with null; and one by name,
// null when there is none.
const Primitives* const* available();
const Primitives* find(const char* name);

// Defined by the translation unit of each instruction set.
extern const Primitives kPortable;
extern const Primitives kAvx2;
extern const Primitives kAvx512;
extern const Primitives kNeon;

}  // namespace peel::simd
