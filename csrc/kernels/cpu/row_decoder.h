// Decoding of one row from a server's store or a packed table, with the primitives.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/packed_rows.h"
#include "simd/primitives.h"

namespace peel {

// Writes the row whose first `bits` planes lie from `planes` on; zeros for no bits.
inline void decode_planes_row(const simd::Primitives& isa, const Geometry& geometry,
                              const float* levels, const uint8_t* planes, int bits,
                              const uint8_t* scale, float* out) {
  if (bits > 0) {
    const simd::PlanesRow row = {planes, scale, out};
    isa.decode_planes(&row, nullptr, 1, bits, levels_of(levels, bits), geometry.dim);
  } else {
    std::memset(out, 0, static_cast<size_t>(geometry.dim) * sizeof(float));
  }
}

// Writes geometry.dim values: the held part of the row, zero elsewhere. Values in pieces need no
// alignment beyond that of their type.
inline void decode_row(const simd::Primitives& isa, const Geometry& geometry, const float* levels,
                       const RowPieces& row, float* out) {
  if (geometry.layout == Layout::kPlanes) {
    // The planes of the layers held lie one after another.
    decode_planes_row(isa, geometry, levels, row.pieces[0], geometry.bits_of(row.held),
                      row.scales[0], out);
    return;
  }
  for (int32_t layer = 0; layer < geometry.num_layers; ++layer) {
    float* to = out + geometry.layer_begin(layer);
    const int64_t width = geometry.layer_width(layer);
    if (!((row.held >> layer) & 1u)) {
      for (int64_t d = 0; d < width; ++d) to[d] = 0.0f;
    } else if (geometry.value_type == ValueType::kFloat32) {
      std::memcpy(to, row.pieces[layer], static_cast<size_t>(width) * sizeof(float));
    } else if (geometry.value_type == ValueType::kFloat16) {
      isa.decode_float16(reinterpret_cast<const uint16_t*>(row.pieces[layer]), to, width);
    } else {
      isa.decode_int8(reinterpret_cast<const int8_t*>(row.pieces[layer]),
                      read_half(row.scales[layer]), to, width);
    }
  }
}

}  // namespace peel
