#include "core/half.h"
#include "simd/primitives.h"

namespace peel::simd {
namespace {

#define PEEL_VECTOR_BYTES 16
#define PEEL_FMA(a, b, c) ((a) * (b) + (c))
#include "simd/body.h"

}  // namespace

extern const Primitives kPortable{"portable", decode_planes, decode_int8, decode_float16,
                                  rotate,     transpose,     dot_tile};

}  // namespace peel::simd
