#include <arm_neon.h>

#include "core/half.h"
#include "simd/primitives.h"

namespace peel::simd {
namespace {

#define PEEL_VECTOR_BYTES 16
#define PEEL_FMA(a, b, c) vfmaq_f32(c, a, b)
#include "simd/vectors.h"

static inline Bytes lookup16(const uint8_t* table, Bytes codes) {
  uint8_t bytes[32];
  store_bytes(bytes, codes);
  const uint8x16_t entries = vld1q_u8(table);
  vst1q_u8(bytes, vqtbl1q_u8(entries, vld1q_u8(bytes)));
  vst1q_u8(bytes + 16, vqtbl1q_u8(entries, vld1q_u8(bytes + 16)));
  return load_bytes(bytes);
}

#define PEEL_PORTABLE_STEPS
#include "simd/body.h"

}  // namespace

extern const Primitives kNeon = PEEL_PRIMITIVES("neon");

}  // namespace peel::simd
