#include "core/half.h"
#include "simd/primitives.h"

namespace peel::simd {
namespace {

#define PEEL_VECTOR_BYTES 16
#define PEEL_FMA(a, b, c) ((a) * (b) + (c))
#include "simd/vectors.h"

static inline Bytes lookup16(const uint8_t* table, Bytes codes) {
  Bytes result;
  for (int i = 0; i < 32; ++i) result[i] = table[codes[i]];
  return result;
}

#define PEEL_PORTABLE_STEPS
#include "simd/body.h"

}  // namespace

extern const Primitives kPortable = PEEL_PRIMITIVES("portable");

}  // namespace peel::simd
