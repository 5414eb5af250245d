// Decoding of one row from a server's store or a packed table: shared by the kernels that read
// rows.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/half.h"
#include "core/table.h"
#include "simd/primitives.h"

namespace peel {

// Where the pieces of one row lie. In columns with int8 values `scales[layer]` points at the fp16
// scale of that layer's piece, in planes scales[0] at the row's.
struct RowPieces {
  uint64_t held = 0;
  const uint8_t* pieces[kMaxLayers];
  const uint8_t* scales[kMaxLayers];
};

inline float read_half(const uint8_t* at) {
  uint16_t half;
  std::memcpy(&half, at, sizeof(half));
  return half_to_float(half);
}

// Writes the row whose first `bits` planes and fp16 scale are given; zeros for no bits.
inline void decode_planes_row(const simd::Primitives& isa, const Geometry& geometry,
                              const float* centroids, const uint8_t* const* planes, int bits,
                              const uint8_t* scale, float* out) {
  if (bits > 0) {
    isa.decode_planes(planes, bits, centroids + (int64_t{1} << bits) - 2, read_half(scale), out,
                      geometry.dim);
  } else {
    std::memset(out, 0, static_cast<size_t>(geometry.dim) * sizeof(float));
  }
}

// Writes geometry.dim values: the held part of the row, zero elsewhere. Values in pieces need no
// alignment beyond that of their type.
inline void decode_row(const simd::Primitives& isa, const Geometry& geometry,
                       const float* centroids, const RowPieces& row, float* out) {
  if (geometry.layout == Layout::kPlanes) {
    const uint8_t* planes[kMaxBits];
    int bits = 0;
    for (int32_t layer = 0; layer < geometry.num_layers && ((row.held >> layer) & 1u); ++layer) {
      for (int32_t bit = 0; bit < geometry.layer_bits[layer]; ++bit) {
        planes[bits++] = row.pieces[layer] + bit * geometry.plane_bytes();
      }
    }
    decode_planes_row(isa, geometry, centroids, planes, bits, row.scales[0], out);
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

inline int64_t padded(int64_t bytes) { return (bytes + 7) / 8 * 8; }

// Byte offsets inside one block, relative to its first byte.
struct BlockBytes {
  int64_t scales = 0;       // of the rows, in the first layer of planes, or of the layer's pieces
  int64_t pieces = 0;       // one after another, in tiles
  int64_t piece_bytes = 0;  // of one row
  int64_t end = 0;          // padded to kBlockAlignment
};

inline BlockBytes block_bytes(const Geometry& geometry, int32_t id_bytes, int64_t rows,
                              int32_t layer) {
  BlockBytes bytes;
  const bool planes = geometry.layout == Layout::kPlanes;
  int64_t at = planes && layer == 0 ? padded(rows * id_bytes) : 0;
  bytes.scales = at;
  if (planes ? layer == 0 : geometry.value_type == ValueType::kInt8) at += padded(rows * 2);
  bytes.pieces = at;
  bytes.piece_bytes = planes ? geometry.layer_bits[layer] * geometry.plane_bytes()
                             : geometry.layer_width(layer) * geometry.value_bytes();
  at += rows * bytes.piece_bytes;
  bytes.end = (at + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
  return bytes;
}

// Where the sections of one item group lie.
struct ItemGroupBytes {
  const uint8_t* row_scales = nullptr;  // planes
  int64_t piece_bytes[kMaxLayers];
  const uint8_t* pieces[kMaxLayers];  // of layers held
  const uint8_t* scales[kMaxLayers];  // columns with int8 values
};

inline ItemGroupBytes item_group_bytes(const PackedTable& table, int64_t item_group, int64_t rows) {
  ItemGroupBytes bytes;
  const DirectoryEntry& entry = table.directory[item_group];
  const uint32_t* offset = table.block_offsets + entry.first_block;
  for (int32_t layer = 0; layer < table.geometry.num_layers; ++layer) {
    if (!((entry.layers >> layer) & 1u)) continue;
    const uint8_t* begin = table.bytes + kBlockAlignment * *offset++;
    const BlockBytes block = block_bytes(table.geometry, table.id_bytes, rows, layer);
    bytes.piece_bytes[layer] = block.piece_bytes;
    bytes.pieces[layer] = begin + block.pieces;
    bytes.scales[layer] = begin + block.scales;
  }
  if (entry.layers & 1u) bytes.row_scales = bytes.scales[0];
  return bytes;
}

// Bytes of one element of a tile.
inline int64_t element_bytes(const Geometry& geometry) {
  return geometry.layout == Layout::kPlanes ? 1 : geometry.value_bytes();
}

// At most: all layers of one row.
inline int64_t encoded_row_bytes(const Geometry& geometry) {
  return geometry.layout == Layout::kPlanes ? kMaxBits * geometry.plane_bytes()
                                            : geometry.dim * geometry.value_bytes();
}

// Collects the pieces of row r of an item group of `rows` rows out of their tiles, into `scratch`
// (encoded_row_bytes).
inline void packed_row(const Geometry& geometry, const ItemGroupBytes& bytes, int64_t rows,
                       uint64_t held, int64_t r, uint8_t* scratch, RowPieces& row) {
  const int64_t tile = r / kPackedTileRows * kPackedTileRows;  // its first row
  const int64_t tile_rows = rows - tile < kPackedTileRows ? rows - tile : kPackedTileRows;
  const auto size = static_cast<size_t>(element_bytes(geometry));
  row.held = held;
  for (int32_t layer = 0; layer < geometry.num_layers; ++layer) {
    if (!((held >> layer) & 1u)) continue;
    const int64_t piece_bytes = bytes.piece_bytes[layer];
    const uint8_t* from = bytes.pieces[layer] + tile * piece_bytes + (r - tile) * size;
    row.pieces[layer] = scratch;
    for (int64_t e = 0; e < piece_bytes; e += size, scratch += size) {
      std::memcpy(scratch, from, size);
      from += tile_rows * size;
    }
    if (geometry.layout == Layout::kColumns && geometry.value_type == ValueType::kInt8) {
      row.scales[layer] = bytes.scales[layer] + r * 2;
    }
  }
  if (geometry.layout == Layout::kPlanes) row.scales[0] = bytes.row_scales + r * 2;
}

inline int64_t read_id(const uint8_t* ids, int32_t id_bytes, int64_t r) {
  if (id_bytes == 2) {
    uint16_t id;
    std::memcpy(&id, ids + r * 2, sizeof(id));
    return id;
  }
  uint32_t id;
  std::memcpy(&id, ids + r * 4, sizeof(id));
  return id;
}

// The first held block of an item group that has any: in planes it begins with the row ids.
inline const uint8_t* packed_base(const PackedTable& table, int64_t item_group) {
  const DirectoryEntry& entry = table.directory[item_group];
  if (entry.layers == 0) return nullptr;
  return table.bytes + kBlockAlignment * table.block_offsets[entry.first_block];
}

// Id of row r of an item group whose first held block is at `base`.
inline int64_t packed_row_id(const PackedTable& table, int64_t item_group, const uint8_t* base,
                             int64_t r) {
  if (table.row_ids == RowIds::kInBlocks) return read_id(base, table.id_bytes, r);
  const int64_t first = item_group == 0 ? 0 : table.directory[item_group - 1].row_end;
  if (table.row_ids == RowIds::kConsecutive) return first + r;
  return read_id(table.listed_ids, table.id_bytes, first + r);
}

// Where the row of an id lies: row `row` of the `rows` of an item group, which is -1 where the
// table has no such row.
struct PackedPlace {
  int64_t item_group = -1;
  int64_t rows = 0;
  int64_t row = 0;
};

// By binary search in each item group: a packed table has no index of its own.
inline PackedPlace find_packed_row(const PackedTable& table, int64_t id) {
  int64_t first = 0;
  for (int64_t c = 0; c < table.num_item_groups; ++c) {
    const int64_t rows = table.directory[c].row_end - first;
    const uint8_t* base = packed_base(table, c);
    int64_t low = 0;
    int64_t high = rows;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (packed_row_id(table, c, base, middle) < id) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    if (low < rows && packed_row_id(table, c, base, low) == id) return {c, rows, low};
    first = table.directory[c].row_end;
  }
  return {};
}

}  // namespace peel
