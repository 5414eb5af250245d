// Where the bytes of rows lie in a packed table (core/table.h).
#pragma once

#include <cstdint>
#include <cstring>

#include "core/half.h"
#include "core/host_device.h"
#include "core/table.h"

namespace peel {

// Where the pieces of one row lie. In columns with int8 values `scales[layer]` points at the fp16
// scale of that layer's piece, in planes scales[0] at the row's.
struct RowPieces {
  uint64_t held = 0;
  const uint8_t* pieces[kMaxLayers];
  const uint8_t* scales[kMaxLayers];
};

PEEL_HD inline float read_half(const uint8_t* at) {
  uint16_t half;
  std::memcpy(&half, at, sizeof(half));
  return half_to_float(half);
}

PEEL_HD inline int64_t padded(int64_t bytes) { return (bytes + 7) / 8 * 8; }

// Byte offsets inside one block, relative to its first byte.
struct BlockBytes {
  int64_t scales = 0;       // of the rows, in the first layer of planes, or of the layer's pieces
  int64_t pieces = 0;       // one after another, in tiles
  int64_t piece_bytes = 0;  // of one row
  int64_t end = 0;          // padded to kBlockAlignment
};

PEEL_HD inline BlockBytes block_bytes(const Geometry& geometry, int32_t id_bytes, int64_t rows,
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

PEEL_HD inline ItemGroupBytes item_group_bytes(const PackedTable& table, int64_t item_group,
                                               int64_t rows) {
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
PEEL_HD inline int64_t element_bytes(const Geometry& geometry) {
  return geometry.layout == Layout::kPlanes ? 1 : geometry.value_bytes();
}

// At most: all layers of one row.
PEEL_HD inline int64_t encoded_row_bytes(const Geometry& geometry) {
  return geometry.layout == Layout::kPlanes ? kMaxBits * geometry.plane_bytes()
                                            : geometry.dim * geometry.value_bytes();
}

// Collects the pieces of row r of an item group of `rows` rows out of their tiles, into `scratch`
// (encoded_row_bytes).
PEEL_HD inline void packed_row(const Geometry& geometry, const ItemGroupBytes& bytes, int64_t rows,
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

PEEL_HD inline int64_t read_id(const uint8_t* ids, int32_t id_bytes, int64_t r) {
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
PEEL_HD inline const uint8_t* packed_base(const PackedTable& table, int64_t item_group) {
  const DirectoryEntry& entry = table.directory[item_group];
  if (entry.layers == 0) return nullptr;
  return table.bytes + kBlockAlignment * table.block_offsets[entry.first_block];
}

// Id of row r of an item group whose first held block is at `base`.
PEEL_HD inline int64_t packed_row_id(const PackedTable& table, int64_t item_group,
                                     const uint8_t* base, int64_t r) {
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

// Row of an id in an item group whose first row is row `first` of the table, or -1.
PEEL_HD inline int64_t find_in_item_group(const PackedTable& table, int64_t item_group,
                                          int64_t first, int64_t id) {
  const int64_t rows = table.directory[item_group].row_end - first;
  const uint8_t* base = packed_base(table, item_group);
  int64_t low = 0;
  int64_t high = rows;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (packed_row_id(table, item_group, base, middle) < id) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < rows && packed_row_id(table, item_group, base, low) == id ? low : -1;
}

// By binary search in each item group: a packed table has no index of its own.
inline PackedPlace find_packed_row(const PackedTable& table, int64_t id) {
  int64_t first = 0;
  for (int64_t c = 0; c < table.num_item_groups; ++c) {
    const int64_t row = find_in_item_group(table, c, first, id);
    if (row >= 0) return {c, table.directory[c].row_end - first, row};
    first = table.directory[c].row_end;
  }
  return {};
}

inline bool holds_row(const PackedTable& table, int64_t id) {
  const PackedPlace place = find_packed_row(table, id);
  return place.item_group >= 0 && table.directory[place.item_group].layers != 0;
}

}  // namespace peel
