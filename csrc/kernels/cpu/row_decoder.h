// Decoding of one row from a server's store or a packed table, with the primitives.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/packed_rows.h"
#include "simd/primitives.h"

namespace peel {

// Writes the row whose first `bits` planes and fp16 scale are given; zeros for no bits.
inline void decode_planes_row(const simd::Primitives& isa, const Geometry& geometry,
                              const float* levels, const uint8_t* const* planes, int bits,
                              const uint8_t* scale, float* out) {
  if (bits > 0) {
    isa.decode_planes(planes, bits, levels + (int64_t{1} << bits) - 2, read_half(scale), out,
                      geometry.dim);
  } else {
    std::memset(out, 0, static_cast<size_t>(geometry.dim) * sizeof(float));
  }
}

// Writes geometry.dim values: the held part of the row, zero elsewhere. Values in pieces need no
// alignment beyond that of their type.
inline void decode_row(const simd::Primitives& isa, const Geometry& geometry, const float* levels,
                       const RowPieces& row, float* out) {
  if (geometry.layout == Layout::kPlanes) {
    const uint8_t* planes[kMaxBits];
    int bits = 0;
    for (int32_t layer = 0; layer < geometry.num_layers && ((row.held >> layer) & 1u); ++layer) {
      for (int32_t bit = 0; bit < geometry.layer_bits[layer]; ++bit) {
        planes[bits++] = row.pieces[layer] + bit * geometry.plane_bytes();
      }
    }
    decode_planes_row(isa, geometry, levels, planes, bits, row.scales[0], out);
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
