#include <immintrin.h>

#include "core/half.h"
#include "simd/primitives.h"

namespace peel::simd {
namespace {

#include "simd/avx512_steps.h"
#include "simd/body.h"

}  // namespace

extern const Primitives kAvx512 = PEEL_PRIMITIVES("avx512");

}  // namespace peel::simd
