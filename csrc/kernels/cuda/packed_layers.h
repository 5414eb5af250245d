// The layers of a packed table's item groups on a CUDA device, one at a time: a thread has no room
// for all of them, as core/packed_rows.h's ItemGroupBytes has.
#pragma once

#include "core/packed_rows.h"
#include "kernels/cuda/device.h"

namespace peel::cuda {

// An item group of a packed table.
struct PackedItemGroup {
  int64_t index;
  int64_t rows;
  uint64_t held;
  const uint32_t* block_offsets;  // of its layers held
};

__device__ inline PackedItemGroup packed_item_group(const PackedTable& table, int64_t c) {
  const DirectoryEntry& entry = table.directory[c];
  const int64_t first = c == 0 ? 0 : table.directory[c - 1].row_end;
  return {c, entry.row_end - first, entry.layers, table.block_offsets + entry.first_block};
}

// Where the tile that begins at row `first` has the pieces of one layer, and the item group its
// scales.
struct PackedLayer {
  const uint8_t* pieces;
  const uint8_t* scales;  // of all rows
};

__device__ inline PackedLayer packed_layer(const PackedTable& table,
                                           const PackedItemGroup& item_group, int32_t layer,
                                           int64_t first) {
  const int below = __popcll(item_group.held & ((uint64_t{1} << layer) - 1));
  const uint8_t* begin = table.bytes + kBlockAlignment * int64_t{item_group.block_offsets[below]};
  const BlockBytes block = block_bytes(table.geometry, table.id_bytes, item_group.rows, layer);
  return {begin + block.pieces + first * block.piece_bytes, begin + block.scales};
}

// The fp16 value number r, which lies on two bytes.
__device__ inline float half_at(const uint8_t* halves, int64_t r) {
  return __half2float(__ushort_as_half(reinterpret_cast<const uint16_t*>(halves)[r]));
}

}  // namespace peel::cuda
