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

static inline Bytes lookup16(const uint8_t* table, Bytes codes) {
  uint8_t bytes[32];
  store_bytes(bytes, codes);
  const v128_t entries = wasm_v128_load(table);
  wasm_v128_store(bytes, wasm_i8x16_swizzle(entries, wasm_v128_load(bytes)));
  wasm_v128_store(bytes + 16, wasm_i8x16_swizzle(entries, wasm_v128_load(bytes + 16)));
  return load_bytes(bytes);
}

#define PEEL_PORTABLE_STEPS
#include "simd/body.h"

}  // namespace

extern const Primitives kWasm128 = PEEL_PRIMITIVES("wasm128");

}  // namespace peel::simd
