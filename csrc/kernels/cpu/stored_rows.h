// Where the rows of pairs lie in the store of a table in blocks.
#pragma once

#include <cstdint>

#include "core/table.h"
#include "kernels/cpu/prefetch.h"

namespace peel {

inline const int32_t* item_group_of(const StoreTable& table, int64_t index, int64_t group) {
  return table.item_group + group * table.item_group_stride + index;
}

inline int64_t refined_row(const StoreTable& table, int64_t index, int64_t group) {
  return table.refinement_slot ? table.refinement_slot[group * table.num_embeddings + index] : -1;
}

// Where the encoded row of a pair lies, and which of its layers are held.
struct StoredRow {
  const uint8_t* pieces;
  const uint8_t* scales;
  uint64_t held;
};

// Finds the row; false when the table names a refined row or an item group that it does not have.
PEEL_ALWAYS_INLINE bool find_stored_row(const StoreTable& table, int64_t index, int64_t group,
                                        StoredRow& found) {
  const int64_t slot = refined_row(table, index, group);
  const int64_t c = *item_group_of(table, index, group);
  if (slot >= table.num_refined || c >= table.num_item_groups) return false;
  const int64_t row = slot < 0 ? index : table.num_embeddings + slot;
  found.pieces = table.store + row * table.row_bytes;
  found.scales = reinterpret_cast<const uint8_t*>(table.scales + row * table.scales_per_row);
  found.held = c < 0 ? 0 : static_cast<uint64_t>(table.held[group * table.num_item_groups + c]);
  return true;
}

PEEL_ALWAYS_INLINE void prefetch_stored_row(const StoreTable& table, const StoredRow& row) {
  prefetch(row.pieces, table.row_bytes);
  prefetch(row.scales, table.scales_per_row * 2);
}

}  // namespace peel
