#include <immintrin.h>

#include "core/half.h"
#include "simd/primitives.h"

namespace peel::simd {
namespace {

#define PEEL_VECTOR_BYTES 64
#define PEEL_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#include "simd/body.h"

}  // namespace

extern const Primitives kAvx512{"avx512", decode_planes, decode_int8, decode_float16,
                                rotate,   transpose,     dot_tile};

}  // namespace peel::simd
